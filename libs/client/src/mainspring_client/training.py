"""Training runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from mainspring.training.v1 import recipe_pb2, run_pb2, training_service_pb2_grpc
from mainspring.training.v1 import training_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName


@dataclass(frozen=True)
class RunUpdate:
    """A run as it is now, with the metrics that are new since the update before."""

    run: run_pb2.TrainingRun
    metrics: list[run_pb2.TrainingMetric]


class Training(Area):
    """Client of the trainer; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = training_service_pb2_grpc.TrainingServiceStub(connection.channel("trainer"))

    async def recipe(self, name: str) -> recipe_pb2.TuningRecipe:
        """A tuning recipe."""
        request = pb.GetTuningRecipeRequest(name=name)
        return (await self._unary(self.stub.GetTuningRecipe, request, pb.GetTuningRecipeResponse)).tuning_recipe

    async def start(
        self, recipe: str, dataset_version: str, *, priority: int = 0, parent_model_version: str = ""
    ) -> run_pb2.TrainingRun:
        """Asks for a run by hand; published dataset versions ask for theirs by themselves.

        Args:
            recipe: Name of the tuning recipe, which is applied as it stands.
            dataset_version: Name of what is learned.
            priority: Higher goes first.
            parent_model_version: Name of the version whose adapter it begins with; empty for what the recipe says.
        """
        project = "/".join(recipe.split("/")[:2])
        request = pb.CreateTrainingRunRequest(
            parent=project,
            tuning_recipe=recipe,
            dataset_version=dataset_version,
            priority=priority,
            parent_model_version=parent_model_version,
            request_id=new_id(),
        )
        return (await self._unary(self.stub.CreateTrainingRun, request, pb.CreateTrainingRunResponse)).training_run

    def runs(self, project: str) -> AsyncIterator[run_pb2.TrainingRun]:
        """A project's runs, newest first."""
        request = pb.ListTrainingRunsRequest(parent=str(ProjectName(project)))
        return self._pages(self.stub.ListTrainingRuns, request, pb.ListTrainingRunsResponse, lambda r: r.training_runs)

    async def run(self, name: str) -> run_pb2.TrainingRun:
        """A run."""
        request = pb.GetTrainingRunRequest(name=name)
        return (await self._unary(self.stub.GetTrainingRun, request, pb.GetTrainingRunResponse)).training_run

    async def watch(self, name: str) -> AsyncIterator[RunUpdate]:
        """The run now and after each change, until it has ended; each metric once."""
        seen = 0
        request = pb.WatchTrainingRunRequest(name=name)
        async for response in self._watch(self.stub.WatchTrainingRun, request, pb.WatchTrainingRunResponse):
            # A watch that was begun anew tells everything again.
            new = [metric for metric in response.metrics if metric.step > seen]
            seen = max([seen, *(metric.step for metric in new)])
            yield RunUpdate(response.training_run, new)

    def metrics(self, run: str) -> AsyncIterator[run_pb2.TrainingMetric]:
        """A run's metrics by step."""
        request = pb.ListTrainingMetricsRequest(parent=run, page_size=500)
        return self._pages(
            self.stub.ListTrainingMetrics, request, pb.ListTrainingMetricsResponse, lambda r: r.training_metrics
        )

    async def estimate(self, recipe: str, dataset_version: str) -> pb.EstimateTrainingRunResponse:
        """What a run would take, by what earlier ones took."""
        project = "/".join(recipe.split("/")[:2])
        request = pb.EstimateTrainingRunRequest(parent=project, tuning_recipe=recipe, dataset_version=dataset_version)
        return await self._unary(self.stub.EstimateTrainingRun, request, pb.EstimateTrainingRunResponse)

    async def page(self, name: str, max_points: int = 200) -> pb.GetTrainingRunPageResponse:
        """A run with its recipe as applied and all its curves."""
        request = pb.GetTrainingRunPageRequest(name=name, max_points=max_points)
        return await self._unary(self.stub.GetTrainingRunPage, request, pb.GetTrainingRunPageResponse)

    async def compare(
        self, project: str, names: Sequence[str], max_points: int = 200
    ) -> pb.CompareTrainingRunsResponse:
        """Runs beside each other: their curves over the same steps, and the settings in which they differ."""
        request = pb.CompareTrainingRunsRequest(
            parent=str(ProjectName(project)), training_runs=names, max_points=max_points
        )
        return await self._unary(self.stub.CompareTrainingRuns, request, pb.CompareTrainingRunsResponse)

    async def pause(self, name: str) -> run_pb2.TrainingRun:
        """Pauses a run that has not ended; one that is worked on writes a checkpoint first."""
        request = pb.PauseTrainingRunRequest(name=name, request_id=new_id())
        return (await self._unary(self.stub.PauseTrainingRun, request, pb.PauseTrainingRunResponse)).training_run

    async def resume(self, name: str) -> run_pb2.TrainingRun:
        """Has a paused run go on from its last checkpoint."""
        request = pb.ResumeTrainingRunRequest(name=name, request_id=new_id())
        return (await self._unary(self.stub.ResumeTrainingRun, request, pb.ResumeTrainingRunResponse)).training_run

    async def cancel(self, name: str) -> run_pb2.TrainingRun:
        """Cancels a run that has not ended."""
        request = pb.CancelTrainingRunRequest(name=name, request_id=new_id())
        return (await self._unary(self.stub.CancelTrainingRun, request, pb.CancelTrainingRunResponse)).training_run
