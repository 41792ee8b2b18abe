"""Use cases of asking for runs and of ending them."""

from __future__ import annotations

from mainspring_svckit.errors import InvalidInput, QuotaExceeded
from mainspring_svckit.names import DatasetName, DatasetVersionName, ProjectName, TrainingRunName, TuningRecipeName
from mainspring_svckit.pagination import MAX_PAGE_SIZE, Page
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_trainer.application import parents
from mainspring_trainer.application.policy import Policy
from mainspring_trainer.application.ports import Ports
from mainspring_trainer.domain.recipes import TuningRecipe
from mainspring_trainer.domain.runs import Dataset, RunState, TrainingMetric, TrainingRun, metric_key

WORK_KIND = "training-run"
TIDY_KIND = "training-checkpoints"
STUDY_KIND = "training-study"
MIRROR_KIND = "training-mirror"
WATCH = "watch"
WISHES = "training-wish"
"""Channel that wakes the trainer of a run when somebody wants something of it."""


def export_kind(tracker: str) -> str:
    """The kind of work that gives runs to a tracker."""
    return f"training-export-{tracker}"


class Runs:
    """Use cases of training runs."""

    def __init__(self, ports: Ports, policy: Policy) -> None:
        self._ports, self._policy = ports, policy

    async def create(
        self,
        project: str,
        recipe_name: str,
        dataset_version: str,
        priority: int = 0,
        *,
        author: str = "",
        begin_with: str = "",
    ) -> TrainingRun:
        """Queues a run that somebody asked for; it begins a new turn of the loop.

        Raises:
            InvalidInput: DATASET_DIFFERS, the version is not one of the recipe's dataset; or the names do not fit.
            NotFound: There is no such recipe.
            PreconditionFailed: PARENT_UNUSABLE, it cannot begin with that version.
            QuotaExceeded: QUEUE_FULL, too many runs of the project have not ended.
            Unavailable: The registry could not be asked for that version.
        """
        if TuningRecipeName.parse(recipe_name, "tuning_recipe").project != project:
            message = f"tuning_recipe must be of {ProjectName(project)}; name one of that project"
            raise InvalidInput(message, reason="PROJECT_DIFFERS")
        version = DatasetVersionName.parse(dataset_version, "dataset_version")
        if begin_with:
            await self._check_parent(recipe_name, begin_with)
        async with self._ports.transactions.transaction():
            recipe = (await require(self._ports.recipes, "TuningRecipe", recipe_name)).value
            if str(DatasetName(version.project, version.dataset)) != recipe.dataset:
                message = f"{dataset_version} is not a version of {recipe.dataset}, which {recipe_name} learns from"
                raise InvalidInput(message, reason="DATASET_DIFFERS")
            await self.check_room(project)
            return await self.add(
                recipe,
                dataset_version,
                self._ports.new_id(),
                priority=priority,
                author=author,
                begin_with=begin_with,
            )

    async def _check_parent(self, recipe_name: str, begin_with: str) -> None:
        """Refuses at once what the run would be refused for when it is taken."""
        async with self._ports.transactions.transaction():
            recipe = (await require(self._ports.recipes, "TuningRecipe", recipe_name)).value
        await parents.named(self._ports, recipe, begin_with)

    async def check_room(self, project: str) -> None:
        """Raises `QuotaExceeded` when a project has as many open runs as it may. Joins the ambient transaction."""
        most = self._policy.open_runs_per_project
        if await self._ports.work.open_items(WORK_KIND, project) >= most:
            message = f"{ProjectName(project)} has {most} runs that have not ended; wait for some, or cancel them"
            raise QuotaExceeded("QUEUE_FULL", message)

    async def dataset_published(self, dataset: str, version: Dataset, cycle: str) -> list[TrainingRun]:
        """Queues a run for each recipe of the dataset, unless that turn of the loop has one for this version."""
        ports = self._ports
        async with ports.transactions.transaction():
            known = await ports.runs.find("dataset_version", version.name)
            done = {(run.recipe.name, run.cycle) for run in known}
            cycle = cycle or ports.new_id()
            return [
                await self.add(recipe, version.name, cycle, dataset=version)
                for recipe in await ports.recipes.find("dataset", dataset)
                if (recipe.name, cycle) not in done
            ]

    async def cancel(self, name: str) -> TrainingRun:
        """Ends a run that nobody wants any more; its trainer loses the lease and kills the process.

        Raises:
            NotFound: There is no such run.
            IllegalTransition: It has ended.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            # The item of work before the run, the order in which trainers lock them.
            await ports.work.cancel(WORK_KIND, name)
            run = (await require(ports.runs, "TrainingRun", name, lock=True)).value.cancelled(ports.clock.now())
            await self._end(run)
            if not run.study:
                await ports.announcements.run_cancelled(run)
        return run

    async def pause(self, name: str) -> TrainingRun:
        """Has a run wait until it is resumed; one that a trainer has writes a checkpoint first.

        Raises:
            NotFound: There is no such run.
            IllegalTransition: It is paused, or has ended.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            run = (await require(ports.runs, "TrainingRun", name, lock=True)).value.pause_wished()
            await ports.runs.put(run)
            await ports.notifier.notify(WISHES, name)
            await ports.notifier.notify(WATCH, name)
            if run.state is RunState.PAUSED:
                await ports.work.cancel(WORK_KIND, name)
        return run

    async def resume(self, name: str) -> TrainingRun:
        """Has a paused run go on.

        Raises:
            NotFound: There is no such run.
            IllegalTransition: It is not paused.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            run = (await require(ports.runs, "TrainingRun", name, lock=True)).value.resumed()
            await ports.runs.put(run)
            await ports.notifier.notify(WATCH, name)
            if run.state is RunState.PENDING:
                await ports.work.enqueue(WORK_KIND, name, priority=run.priority)
        return run

    async def metrics_after(self, name: str, step: int) -> list[TrainingMetric]:
        """A run's metrics of later steps than `step`, in order."""
        found: list[TrainingMetric] = []
        after: str | None = metric_key(step)
        async with self._ports.transactions.transaction():
            while after is not None:
                listed = await self._ports.metrics.list(name, Page(MAX_PAGE_SIZE, after))
                found += [item.value for item in listed.items]
                after = listed.next_key
        return found

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Records why a run cannot end. Joins the ambient transaction."""
        ports = self._ports
        run = (await require(ports.runs, "TrainingRun", name, lock=True)).value
        if run.state is RunState.CANCELLED:
            return
        run = run.failed(reason, message, ports.clock.now())
        await self._end(run)
        if not run.study:
            await ports.announcements.run_failed(run)

    async def tidy(self, name: str, lease: Claim) -> None:
        """Removes the checkpoints of a run that has ended."""
        ports = self._ports
        async with ports.transactions.transaction():
            run = (await require(ports.runs, "TrainingRun", name)).value
        project = TrainingRunName.parse(name).project
        for checkpoint in run.checkpoints:
            await ports.files.discard(project, checkpoint.file)
        async with lease.complete():
            latest = (await require(ports.runs, "TrainingRun", name, lock=True)).value
            await ports.runs.put(latest.tidied())

    async def add(
        self,
        recipe: TuningRecipe,
        dataset_version: str,
        cycle: str,
        *,
        dataset: Dataset | None = None,
        priority: int = 0,
        study: str = "",
        author: str = "",
        begin_with: str = "",
    ) -> TrainingRun:
        """Queues a run. Joins the ambient transaction."""
        ports = self._ports
        project = TuningRecipeName.parse(recipe.name).project
        run = TrainingRun(
            name=str(TrainingRunName(project, ports.new_id())),
            recipe=recipe,
            dataset_version=dataset_version,
            cycle=cycle,
            create_time=ports.clock.now(),
            dataset=dataset,
            priority=priority,
            study=study,
            author=author,
            begin_with=begin_with,
        )
        await ports.runs.add(run)
        await ports.work.enqueue(WORK_KIND, run.name, priority=priority)
        return run

    async def _end(self, run: TrainingRun) -> None:
        ports = self._ports
        await ports.runs.put(run)
        await ports.work.enqueue(TIDY_KIND, run.name, delay_s=self._policy.checkpoint_retention_s)
        await ports.notifier.notify(WATCH, run.name)
        if run.study:
            await ports.work.enqueue(STUDY_KIND, run.study, coalesce=True)
        for kind in self._policy.mirrors:
            await ports.work.enqueue(kind, run.name, coalesce=True)
