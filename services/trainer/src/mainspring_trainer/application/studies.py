"""Use cases of searching: a study asks for runs, follows them, ends those that promise nothing, and sums up."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from mainspring_svckit.errors import IllegalTransition, InvalidInput
from mainspring_svckit.names import DatasetName, DatasetVersionName, StudyName, StudyTrialName
from mainspring_svckit.pagination import MAX_PAGE_SIZE, Page
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_trainer.application.ports import Ports
from mainspring_trainer.application.runs import STUDY_KIND, WATCH, Runs
from mainspring_trainer.domain.runs import RUN_STATES, RunState, TrainingRun
from mainspring_trainer.domain.studies import (
    STUDY_STATES,
    Objective,
    Pruner,
    Study,
    StudyState,
    StudyTrial,
    TrialState,
    hopeless,
)

_WEIGHTS = "adapter/adapter_model.safetensors"


class Studies:
    """Use cases of studies."""

    def __init__(self, ports: Ports, runs: Runs) -> None:
        self._ports, self._runs = ports, runs

    async def create(self, study: Study, recipe_name: str) -> Study:
        """Begins a study of a recipe as it stands now.

        Raises:
            InvalidInput: SEARCH_SPACE_UNUSABLE, DATASET_DIFFERS, PROJECT_DIFFERS, or a name is none.
            NotFound: There is no such recipe.
        """
        ports, project = self._ports, StudyName.parse(study.name).project
        version = DatasetVersionName.parse(study.dataset_version, "study.dataset_version")
        async with ports.transactions.transaction():
            study = replace(study, recipe=(await require(ports.recipes, "TuningRecipe", recipe_name)).value)
            dataset = DatasetName(version.project, version.dataset)
            if str(dataset) != study.recipe.dataset or version.project != project:
                message = f"{study.dataset_version} is not a version of {study.recipe.dataset}, which is learned from"
                raise InvalidInput(message, reason="DATASET_DIFFERS")
            study.check()
            await self._runs.check_room(project)
            await ports.studies.add(study)
            await ports.work.enqueue(STUDY_KIND, study.name)
        return study

    async def cancel(self, name: str) -> Study:
        """Ends a study that nobody wants any more; its open runs are cancelled in a moment.

        Raises:
            NotFound: There is no such study.
            IllegalTransition: It has ended.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            study = (await require(ports.studies, "Study", name, lock=True)).value
            study = study.ended(StudyState.CANCELLED, ports.clock.now())
            await ports.studies.put(study)
            await ports.notifier.notify(WATCH, name)
            await ports.work.enqueue(STUDY_KIND, name, coalesce=True)
        return study

    async def advance(self, name: str, lease: Claim) -> None:
        """Takes a study as far as it can go now. Whatever happens to its runs brings it here again."""
        ports = self._ports
        async with ports.transactions.transaction():
            study = (await require(ports.studies, "Study", name)).value
            trials = await self._trials(name)
        trials = [await self._settled(study, trial) for trial in trials]
        trials = await self._pruned(study, trials)
        async with lease.transaction():
            for trial in trials:
                await ports.trials.put(trial)
        await self._cancel_needless(study, trials)
        while study.wants_more(trials) and hopeless(trials) is None:
            trials.append(await self._begin(study, trials, lease))
        await self._sum_up(study, trials, lease)

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Records why a study cannot go on. Joins the ambient transaction."""
        ports = self._ports
        study = (await require(ports.studies, "Study", name, lock=True)).value
        if not STUDY_STATES.ended(study.state):
            await ports.studies.put(study.ended(StudyState.FAILED, ports.clock.now(), reason, message))
            await ports.notifier.notify(WATCH, name)

    async def _trials(self, name: str) -> list[StudyTrial]:
        found: list[StudyTrial] = []
        after: str | None = ""
        while after is not None:
            listed = await self._ports.trials.list(name, Page(MAX_PAGE_SIZE, after))
            found += [item.value for item in listed.items]
            after = listed.next_key
        return found

    async def _settled(self, study: Study, trial: StudyTrial) -> StudyTrial:
        """A trial with what its run has come to."""
        if trial.state is not TrialState.RUNNING:
            return trial
        ports = self._ports
        async with ports.transactions.transaction():
            run = (await require(ports.runs, "TrainingRun", trial.run)).value
            metrics = await self._runs.metrics_after(trial.run, 0)
        total = max(1, run.progress.total)
        losses = {round(100 * m.step / total): m.validation_loss for m in metrics if m.validation_loss is not None}
        trial = replace(trial, losses=losses, cpu_s=run.usage.cpu_s)
        if run.state is RunState.SUCCEEDED:
            values = tuple(_value(objective, run) for objective in study.objectives)
            if Objective.VALIDATION_LOSS in study.objectives and not losses:
                message = f"{study.dataset_version} has no validation rows, by which trials are compared; ingest some"
                return trial.ended(TrialState.FAILED, error_reason="NO_VALIDATION_ROWS", error_message=message)
            return trial.ended(TrialState.COMPLETE, values=values)
        if RUN_STATES.ended(run.state):
            reason, message = run.error_reason or "RUN_CANCELLED", run.error_message or "its run was cancelled"
            return trial.ended(TrialState.FAILED, error_reason=reason, error_message=message)
        return trial

    async def _pruned(self, study: Study, trials: list[StudyTrial]) -> list[StudyTrial]:
        """The trials, those ended that others leave far behind."""
        if study.pruner is Pruner.NONE:
            return trials
        for trial in list(trials):
            if trial.state is TrialState.RUNNING and trial.losses:
                judged = await self._ports.search.judge(study, trials, trial)
                trials = [judged if other.number == trial.number else other for other in trials]
        return trials

    async def _cancel_needless(self, study: Study, trials: Sequence[StudyTrial]) -> None:
        """Ends the runs of pruned trials, and of all when the study has ended.

        Not in the transaction that says so: a trainer that writes for such a run holds its row of work and wants ours.
        A kill between the two is mended by the next time.
        """
        over = STUDY_STATES.ended(study.state)
        for trial in trials:
            if trial.state is TrialState.PRUNED or (over and trial.state is TrialState.RUNNING):
                with suppress(IllegalTransition):
                    await self._runs.cancel(trial.run)

    async def _begin(self, study: Study, trials: Sequence[StudyTrial], lease: Claim) -> StudyTrial:
        ports, number = self._ports, len(trials)
        own = study.recipe_parameters() if study.recipe_trial and number == 0 else None
        parameters, memory = await ports.search.ask(study, trials, own)
        names = StudyName.parse(study.name)
        async with lease.transaction():
            run = await self._runs.add(
                study.recipe_with(parameters),
                study.dataset_version,
                ports.new_id(),
                priority=study.priority,
                study=study.name,
            )
            trial = StudyTrial(
                name=str(StudyTrialName(names.project, names.study, str(number))),
                study=study.name,
                number=number,
                parameters=parameters,
                run=run.name,
                memory=memory,
            )
            await ports.trials.add(trial)
        return trial

    async def _sum_up(self, study: Study, trials: Sequence[StudyTrial], lease: Claim) -> None:
        ports = self._ports
        result = await ports.search.result(study, trials)
        running = any(trial.state is TrialState.RUNNING for trial in trials)
        async with lease.complete():
            stored = (await require(ports.studies, "Study", study.name, lock=True)).value
            stored = stored.counting(trials, result)
            if not STUDY_STATES.ended(stored.state) and not running:
                stored = await self._ended(stored, trials)
            await ports.studies.put(stored)
            await ports.notifier.notify(WATCH, study.name)

    async def _ended(self, study: Study, trials: Sequence[StudyTrial]) -> Study:
        now = self._ports.clock.now()
        if study.result is None:
            last = hopeless(trials) or trials[-1]
            message = f"no trial is complete; the last one said: {last.error_message or last.state}"
            return study.ended(StudyState.FAILED, now, last.error_reason or "NO_TRIAL_COMPLETE", message)
        if study.register_best:
            best = next(trial for trial in trials if trial.number == study.result.best_trial)
            run = (await require(self._ports.runs, "TrainingRun", best.run)).value
            await self._ports.announcements.run_succeeded(run)
        return study.ended(StudyState.SUCCEEDED, now)


def _value(objective: Objective, run: TrainingRun) -> float:
    assert run.result is not None
    match objective:
        case Objective.VALIDATION_LOSS:
            return run.result.best_validation_loss
        case Objective.CPU_SECONDS:
            return run.usage.cpu_s
        case Objective.GPU_SECONDS:
            return run.usage.gpu_s
        case Objective.ADAPTER_BYTES:
            return float(run.result.artifacts[_WEIGHTS].size_bytes)
