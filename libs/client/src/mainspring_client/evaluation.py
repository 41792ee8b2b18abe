"""Evaluation runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mainspring.evaluation.v1 import evaluation_service_pb2 as pb
from mainspring.evaluation.v1 import evaluation_service_pb2_grpc, run_pb2
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName


class Evaluation(Area):
    """Client of the evaluator; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = evaluation_service_pb2_grpc.EvaluationServiceStub(connection.channel("evaluator"))

    async def start(self, suite: str, candidate: str, baseline: str = "") -> run_pb2.EvaluationRun:
        """Asks for a run by hand; registered versions ask for theirs by themselves."""
        project = "/".join(suite.split("/")[:2])
        request = pb.CreateEvaluationRunRequest(
            parent=project, evaluation_suite=suite, candidate=candidate, baseline=baseline, request_id=new_id()
        )
        response = await self._unary(self.stub.CreateEvaluationRun, request, pb.CreateEvaluationRunResponse)
        return response.evaluation_run

    def runs(self, project: str) -> AsyncIterator[run_pb2.EvaluationRun]:
        """A project's runs, newest first."""
        request = pb.ListEvaluationRunsRequest(parent=str(ProjectName(project)))
        return self._pages(
            self.stub.ListEvaluationRuns, request, pb.ListEvaluationRunsResponse, lambda r: r.evaluation_runs
        )

    async def run(self, name: str) -> run_pb2.EvaluationRun:
        """A run."""
        request = pb.GetEvaluationRunRequest(name=name)
        return (await self._unary(self.stub.GetEvaluationRun, request, pb.GetEvaluationRunResponse)).evaluation_run

    async def watch(self, name: str) -> AsyncIterator[run_pb2.EvaluationRun]:
        """The run now and after each change, until it has ended."""
        request = pb.WatchEvaluationRunRequest(name=name)
        async for response in self._watch(self.stub.WatchEvaluationRun, request, pb.WatchEvaluationRunResponse):
            yield response.evaluation_run

    async def cancel(self, name: str) -> run_pb2.EvaluationRun:
        """Cancels a run that has not ended."""
        request = pb.CancelEvaluationRunRequest(name=name, request_id=new_id())
        response = await self._unary(self.stub.CancelEvaluationRun, request, pb.CancelEvaluationRunResponse)
        return response.evaluation_run

    def items(self, run: str) -> AsyncIterator[run_pb2.EvaluationItem]:
        """What both models said to each item, by position."""
        request = pb.ListEvaluationItemsRequest(parent=run)
        return self._pages(
            self.stub.ListEvaluationItems, request, pb.ListEvaluationItemsResponse, lambda r: r.evaluation_items
        )
