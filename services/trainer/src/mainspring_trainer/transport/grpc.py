"""`mainspring.training.v1.TrainingService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mainspring.training.v1 import training_service_pb2 as pb
from mainspring.training.v1 import training_service_pb2_grpc as pb_grpc
from mainspring_svckit.auth import current_principal
from mainspring_svckit.database import Listener
from mainspring_svckit.names import ProjectName
from mainspring_svckit.reading import Reader
from mainspring_svckit.watching import follow
from mainspring_trainer.application.comparing import Comparing
from mainspring_trainer.application.estimating import Estimating
from mainspring_trainer.application.ports import Ports
from mainspring_trainer.application.recipes import Recipes
from mainspring_trainer.application.runs import Runs
from mainspring_trainer.domain.runs import RUN_STATES, TrainingRun
from mainspring_trainer.transport import mapping, recipes, tracking

NAME = "mainspring.training.v1.TrainingService"


class TrainingServicer(pb_grpc.TrainingServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: Ports, recipes: Recipes, runs: Runs, listener: Listener) -> None:
        self._ports, self._recipes, self._runs, self._listener = ports, recipes, runs, listener
        self._reader = Reader(ports.transactions)
        self._comparing, self._estimating = Comparing(ports, runs), Estimating(ports)

    async def UpdateTuningRecipe(
        self, request: pb.UpdateTuningRecipeRequest, context: Any
    ) -> pb.UpdateTuningRecipeResponse:
        stored = await self._recipes.put(
            recipes.recipe_from_proto(request.tuning_recipe),
            etag=request.tuning_recipe.etag,
            allow_missing=request.allow_missing,
        )
        return pb.UpdateTuningRecipeResponse(tuning_recipe=recipes.recipe_to_proto(stored))

    async def GetTuningRecipe(self, request: pb.GetTuningRecipeRequest, context: Any) -> pb.GetTuningRecipeResponse:
        found = await self._reader.get(self._ports.recipes, "TuningRecipe", request.name)
        return pb.GetTuningRecipeResponse(tuning_recipe=recipes.recipe_to_proto(found))

    async def ListTuningRecipes(
        self, request: pb.ListTuningRecipesRequest, context: Any
    ) -> pb.ListTuningRecipesResponse:
        listed, token = await self._reader.list(self._ports.recipes, request)
        return pb.ListTuningRecipesResponse(
            tuning_recipes=[recipes.recipe_to_proto(item) for item in listed.items], next_page_token=token
        )

    async def CreateTrainingRun(
        self, request: pb.CreateTrainingRunRequest, context: Any
    ) -> pb.CreateTrainingRunResponse:
        project = ProjectName.parse(request.parent, "parent").project
        author = current_principal.get().subject
        run = await self._runs.create(
            project,
            request.tuning_recipe,
            request.dataset_version,
            request.priority,
            author=author,
            begin_with=request.parent_model_version,
        )
        return pb.CreateTrainingRunResponse(training_run=mapping.run_to_proto(run))

    async def GetTrainingRun(self, request: pb.GetTrainingRunRequest, context: Any) -> pb.GetTrainingRunResponse:
        found = await self._reader.get(self._ports.runs, "TrainingRun", request.name)
        return pb.GetTrainingRunResponse(training_run=mapping.run_to_proto(found.value))

    async def ListTrainingRuns(self, request: pb.ListTrainingRunsRequest, context: Any) -> pb.ListTrainingRunsResponse:
        listed, token = await self._reader.list(self._ports.runs, request)
        return pb.ListTrainingRunsResponse(
            training_runs=[mapping.run_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def CancelTrainingRun(
        self, request: pb.CancelTrainingRunRequest, context: Any
    ) -> pb.CancelTrainingRunResponse:
        run = await self._runs.cancel(request.name)
        return pb.CancelTrainingRunResponse(training_run=mapping.run_to_proto(run))

    async def WatchTrainingRun(
        self, request: pb.WatchTrainingRunRequest, context: Any
    ) -> AsyncIterator[pb.WatchTrainingRunResponse]:
        async def read() -> TrainingRun:
            return (await self._reader.get(self._ports.runs, "TrainingRun", request.name)).value

        sent = -1
        async for run in follow(self._listener, request.name, read, lambda run: RUN_STATES.ended(run.state)):
            metrics = await self._runs.metrics_after(request.name, sent)
            sent = metrics[-1].step if metrics else sent
            yield pb.WatchTrainingRunResponse(
                training_run=mapping.run_to_proto(run), metrics=[mapping.metric_to_proto(m) for m in metrics]
            )

    async def ListTrainingMetrics(
        self, request: pb.ListTrainingMetricsRequest, context: Any
    ) -> pb.ListTrainingMetricsResponse:
        await self._reader.get(self._ports.runs, "TrainingRun", request.parent)
        listed, token = await self._reader.list(self._ports.metrics, request)
        return pb.ListTrainingMetricsResponse(
            training_metrics=[mapping.metric_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def PauseTrainingRun(self, request: pb.PauseTrainingRunRequest, context: Any) -> pb.PauseTrainingRunResponse:
        run = await self._runs.pause(request.name)
        return pb.PauseTrainingRunResponse(training_run=mapping.run_to_proto(run))

    async def ResumeTrainingRun(
        self, request: pb.ResumeTrainingRunRequest, context: Any
    ) -> pb.ResumeTrainingRunResponse:
        run = await self._runs.resume(request.name)
        return pb.ResumeTrainingRunResponse(training_run=mapping.run_to_proto(run))

    async def GetTrainingRunPage(
        self, request: pb.GetTrainingRunPageRequest, context: Any
    ) -> pb.GetTrainingRunPageResponse:
        run, curves = await self._comparing.page(request.name, request.max_points)
        return pb.GetTrainingRunPageResponse(
            training_run=mapping.run_to_proto(run),
            tuning_recipe=recipes.applied_recipe_to_proto(run.recipe),
            curves=[tracking.curve_to_proto(curve) for curve in curves],
        )

    async def CompareTrainingRuns(
        self, request: pb.CompareTrainingRunsRequest, context: Any
    ) -> pb.CompareTrainingRunsResponse:
        project = ProjectName.parse(request.parent, "parent").project
        found = await self._comparing.compare(project, request.training_runs, request.max_points)
        return pb.CompareTrainingRunsResponse(
            training_runs=[mapping.run_to_proto(run) for run in found.runs],
            curves=[tracking.curve_to_proto(curve) for curve in found.curves],
            differences=tracking.differences_to_proto(found.differences),
        )

    async def EstimateTrainingRun(
        self, request: pb.EstimateTrainingRunRequest, context: Any
    ) -> pb.EstimateTrainingRunResponse:
        project = ProjectName.parse(request.parent, "parent").project
        found = await self._estimating.estimate(project, request.tuning_recipe, request.dataset_version)
        return pb.EstimateTrainingRunResponse(
            rows=found.rows,
            steps=found.steps,
            measured_on=found.measured_on,
            usage=tracking.usage_to_proto(found.usage),
            open_runs=found.open_runs,
        )
