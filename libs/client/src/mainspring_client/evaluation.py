"""Evaluation runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mainspring.evaluation.v1 import drift_pb2, evaluation_service_pb2_grpc, run_pb2, suite_pb2
from mainspring.evaluation.v1 import evaluation_service_pb2 as pb
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

    async def suite(self, name: str) -> suite_pb2.EvaluationSuite:
        """A suite."""
        request = pb.GetEvaluationSuiteRequest(name=name)
        return (
            await self._unary(self.stub.GetEvaluationSuite, request, pb.GetEvaluationSuiteResponse)
        ).evaluation_suite

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

    def suites(self, project: str) -> AsyncIterator[suite_pb2.EvaluationSuite]:
        """A project's suites, by name."""
        request = pb.ListEvaluationSuitesRequest(parent=str(ProjectName(project)))
        return self._pages(
            self.stub.ListEvaluationSuites, request, pb.ListEvaluationSuitesResponse, lambda r: r.evaluation_suites
        )

    def suite_versions(self, suite: str) -> AsyncIterator[suite_pb2.EvaluationSuiteVersion]:
        """What a suite has said, newest first."""
        request = pb.ListEvaluationSuiteVersionsRequest(parent=suite)
        return self._pages(
            self.stub.ListEvaluationSuiteVersions,
            request,
            pb.ListEvaluationSuiteVersionsResponse,
            lambda r: r.evaluation_suite_versions,
        )

    async def sample_sizes(self, run: str, *, effect: float = 0.0, items: int = 0) -> list[pb.SampleSize]:
        """What more items, or fewer, would show, by the spread that a run measured."""
        project = "/".join(run.split("/")[:2])
        request = pb.EstimateSampleSizeRequest(parent=project, evaluation_run=run, effect=effect, items=items)
        response = await self._unary(self.stub.EstimateSampleSize, request, pb.EstimateSampleSizeResponse)
        return list(response.sample_sizes)

    async def compare(self, first: str, second: str, *, pairs: int = 10) -> pb.CompareEvaluationRunsResponse:
        """Two runs' candidates over the questions that both were asked, with the first `pairs` of these."""
        request = pb.CompareEvaluationRunsRequest(first=first, second=second, page_size=pairs)
        return await self._unary(self.stub.CompareEvaluationRuns, request, pb.CompareEvaluationRunsResponse)

    async def put_drift_monitor(self, monitor: drift_pb2.DriftMonitor) -> drift_pb2.DriftMonitor:
        """Writes a drift monitor, made when it is missing."""
        request = pb.UpdateDriftMonitorRequest(drift_monitor=monitor, allow_missing=True, request_id=new_id())
        response = await self._unary(self.stub.UpdateDriftMonitor, request, pb.UpdateDriftMonitorResponse)
        return response.drift_monitor

    async def check_drift(self, monitor: str) -> drift_pb2.DriftMonitor:
        """Asks for a check now."""
        request = pb.CheckDriftMonitorRequest(name=monitor, request_id=new_id())
        response = await self._unary(self.stub.CheckDriftMonitor, request, pb.CheckDriftMonitorResponse)
        return response.drift_monitor

    def drift_reports(self, monitor: str) -> AsyncIterator[drift_pb2.DriftReport]:
        """A monitor's reports, newest first."""
        request = pb.ListDriftReportsRequest(parent=monitor)
        return self._pages(self.stub.ListDriftReports, request, pb.ListDriftReportsResponse, lambda r: r.drift_reports)

    def items(
        self,
        run: str,
        *,
        part: str = "",
        contains: str = "",
        scorer: str = "",
        outcome: str = "",
    ) -> AsyncIterator[run_pb2.EvaluationItem]:
        """What both models said to each item, by position; of a slice, with a text, or where the candidate's score by
        `scorer` is `higher`, `lower` or `equal`.
        """
        wanted = pb.ListEvaluationItemsRequest.Outcome.Value(f"OUTCOME_{(outcome or 'unspecified').upper()}")
        request = pb.ListEvaluationItemsRequest(
            parent=run, slice=part, contains=contains, scorer=scorer, outcome=wanted
        )
        return self._pages(
            self.stub.ListEvaluationItems, request, pb.ListEvaluationItemsResponse, lambda r: r.evaluation_items
        )
