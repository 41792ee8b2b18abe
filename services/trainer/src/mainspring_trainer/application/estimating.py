"""The use case of saying what a run would take before it is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import DatasetVersionName, ProjectName
from mainspring_svckit.pagination import MAX_PAGE_SIZE, Page
from mainspring_svckit.repository import require
from mainspring_trainer.application.ports import Ports
from mainspring_trainer.application.runs import WORK_KIND
from mainspring_trainer.domain.manifests import TRAIN, read_manifest
from mainspring_trainer.domain.recipes import TuningRecipe
from mainspring_trainer.domain.runs import RunState, TrainingRun
from mainspring_trainer.domain.tracking import Usage


@dataclass(frozen=True)
class Estimate:
    """What a run would take; see the contract's response."""

    rows: int
    steps: int
    measured_on: str
    usage: Usage
    open_runs: int


class Estimating:
    """Use cases of estimating."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def estimate(self, project: str, recipe_name: str, dataset_version: str) -> Estimate:
        """What a run of the recipe on the version would take.

        Raises:
            NotFound: There is no such recipe.
            PreconditionFailed: DATASET_UNKNOWN, or its manifest cannot be read.
            Unavailable: data-ingest could not be asked.
        """
        ports = self._ports
        DatasetVersionName.parse(dataset_version, "dataset_version")
        async with ports.transactions.transaction():
            recipe = (await require(ports.recipes, "TuningRecipe", recipe_name)).value
            newest = await ports.runs.list(str(ProjectName(project)), Page(MAX_PAGE_SIZE, None))
            open_runs = await ports.work.open_items(WORK_KIND, project)
        dataset = await ports.datasets.version(dataset_version)
        if dataset is None:
            message = f"{dataset_version} does not exist; publish it first"
            raise PreconditionFailed("DATASET_UNKNOWN", message, {"datasetVersion": dataset_version})
        manifest = read_manifest(dataset, await ports.files.read(project, dataset.manifest))
        rows = manifest.rows(TRAIN)
        steps = steps_of(recipe, rows)
        for item in newest.items:
            if like := _measured(item.value, recipe):
                factor = steps * recipe.optimization.batch_rows / like
                return Estimate(rows, steps, item.value.name, _scaled(item.value.usage, factor), open_runs)
        return Estimate(rows, steps, "", Usage(), open_runs)


def steps_of(recipe: TuningRecipe, rows: int) -> int:
    """Optimiser steps of a recipe on so many rows."""
    settings = recipe.optimization
    steps = math.ceil(rows * settings.epochs / settings.batch_rows)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def _measured(run: TrainingRun, recipe: TuningRecipe) -> int:
    """Rows in all steps of a run by which a run of the recipe can be judged; 0 for any other."""
    alike = _kind(run.recipe) == _kind(recipe)
    if run.state is not RunState.SUCCEEDED or run.result is None or not alike or not run.usage.wall_s:
        return 0
    return run.result.steps * run.recipe.optimization.batch_rows


def _kind(recipe: TuningRecipe) -> tuple[object, ...]:
    return (recipe.base_model_version, recipe.method, recipe.answering)


def _scaled(usage: Usage, factor: float) -> Usage:
    return replace(
        usage,
        cpu_s=usage.cpu_s * factor,
        gpu_s=usage.gpu_s * factor,
        wall_s=usage.wall_s * factor,
        tokens=round(usage.tokens * factor),
        energy_wh=usage.energy_wh * factor,
        cost=usage.cost * factor,
    )
