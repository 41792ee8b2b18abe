"""The work of making one model version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mainspring_svckit.errors import IllegalTransition
from mainspring_svckit.states import StateMachine
from mainspring_svckit.values import ArtifactRef, Progress
from mainspring_trainer.domain.recipes import TuningRecipe
from mainspring_trainer.domain.tracking import SIGNALS_KEPT, Fingerprint, RunSignal, SystemMetric, Usage

KEPT_CHECKPOINTS = 2
"""One more than is needed, for the case that the newest turns out to be damaged."""


_NOTHING_DONE = Progress(unit="steps")


class RunState(StrEnum):
    """Where a run stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    PAUSED = "PAUSED"


RUN_STATES = StateMachine(
    {
        RunState.PENDING: {RunState.RUNNING, RunState.PAUSED, RunState.CANCELLED},
        RunState.RUNNING: {
            RunState.PENDING,
            RunState.PAUSED,
            RunState.SUCCEEDED,
            RunState.FAILED,
            RunState.CANCELLED,
        },
        RunState.PAUSED: {RunState.PENDING, RunState.CANCELLED},
        RunState.SUCCEEDED: set(),
        RunState.FAILED: set(),
        RunState.CANCELLED: set(),
    }
)


@dataclass(frozen=True)
class TrainingMetric:
    """What a run measured when `step` optimiser steps were done; losses are nats per target token.

    A run that was killed measures some steps again; the newer value counts.
    """

    name: str
    run: str
    step: int
    epoch: float
    train_loss: float
    validation_loss: float | None
    learning_rate: float
    tokens_per_second: float
    time: datetime
    system: SystemMetric | None = None
    measures: Mapping[str, float] = field(default_factory=dict[str, float])


def metric_key(step: int) -> str:
    """What orders a run's metrics; -1 comes before all of them."""
    return f"{step + 1:012}"


@dataclass(frozen=True)
class TrainingResult:
    """What a run made; without validation rows the losses are 0 and the last step was kept."""

    artifacts: Mapping[str, ArtifactRef]
    best_step: int
    best_validation_loss: float
    initial_validation_loss: float
    steps: int
    tokens: int
    stopped_early: bool
    rows_too_long: int


@dataclass(frozen=True)
class Checkpoint:
    """A file from which another trainer can go on."""

    step: int
    file: ArtifactRef


@dataclass(frozen=True)
class Dataset:
    """A dataset version as it is needed: its files and the digest of its rows."""

    name: str
    manifest: ArtifactRef
    root_sha256: str


@dataclass(frozen=True)
class Parent:
    """A version whose adapter a run begins with, and the data whose rows it need not learn again, or None."""

    model_version: str
    adapter_config: ArtifactRef
    adapter_weights: ArtifactRef
    dataset: Dataset | None = None


@dataclass(frozen=True)
class Helper:
    """A model that teaches or gives rewards: a base by file name, and the files of an adapter on it or none."""

    model_version: str
    base_files: Mapping[str, ArtifactRef]
    adapter_files: Mapping[str, ArtifactRef]


@dataclass(frozen=True)
class Inputs:
    """What a run works on; looked up once, so that another try works on the same although a champion has changed."""

    base_files: Mapping[str, ArtifactRef]
    dataset: Dataset
    parent: Parent | None = None
    helper: Helper | None = None


@dataclass(frozen=True)
class TrainingRun:
    """One run.

    Attributes:
        recipe: The recipe as it was when the run was asked for.
        dataset: The dataset version, once it is known with its files.
        inputs: Everything that it works on, once it was looked up.
        precision: What the first try computed in; later tries do the same, so that the result is the same.
        checkpoints: Newest first.
        priority: Higher goes first.
        pause_requested: Somebody wants it paused; its trainer will see to it.
        usage: What it has used over all tries.
        fingerprint: What it is made from, once that was looked up.
        signals: What a person should know, oldest first.
        study: The study that asked for it, or empty; whether its result becomes a model version is the study's affair.
        author: The caller who asked for it; empty when a new dataset version did.
        begin_with: The version whose adapter somebody wants it to begin with; empty for what the recipe says.
    """

    name: str
    recipe: TuningRecipe
    dataset_version: str
    cycle: str
    create_time: datetime
    dataset: Dataset | None = None
    inputs: Inputs | None = None
    precision: str = "auto"
    state: RunState = RunState.PENDING
    progress: Progress = _NOTHING_DONE
    latest_metric: TrainingMetric | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    result: TrainingResult | None = None
    error_reason: str = ""
    error_message: str = ""
    attempt: int = 0
    start_time: datetime | None = None
    end_time: datetime | None = None
    priority: int = 0
    pause_requested: bool = False
    usage: Usage = field(default_factory=Usage)
    fingerprint: Fingerprint | None = None
    signals: tuple[RunSignal, ...] = ()
    first_step_time: datetime | None = None
    study: str = ""
    author: str = ""
    begin_with: str = ""

    @property
    def parent_model_version(self) -> str:
        """The version whose adapter it begins with, or empty."""
        return self.inputs.parent.model_version if self.inputs and self.inputs.parent else self.begin_with

    def taken(self, now: datetime) -> TrainingRun:
        """The run with a trainer; one that another trainer left behind is simply taken over."""
        if self.state is not RunState.RUNNING:
            RUN_STATES.check(self.name, self.state, RunState.RUNNING)
        return replace(
            self,
            state=RunState.RUNNING,
            attempt=self.attempt + 1,
            start_time=self.start_time or now,
            progress=replace(self.progress, phase="preparing", remaining_s=None),
        )

    def given_back(self) -> TrainingRun:
        """The run when its trainer stops, or tries again later."""
        RUN_STATES.check(self.name, self.state, RunState.PENDING)
        return replace(self, state=RunState.PENDING, progress=replace(self.progress, phase="waiting", remaining_s=None))

    def wished_as(self, stored: TrainingRun) -> TrainingRun:
        """The run as its trainer knows it, with what people asked for meanwhile."""
        return replace(self, pause_requested=stored.pause_requested)

    def pause_wished(self) -> TrainingRun:
        """The run when somebody wants it paused: at once when nobody has it, else as soon as its trainer can."""
        if self.state is RunState.RUNNING:
            return replace(self, pause_requested=True)
        return self.paused()

    def paused(self) -> TrainingRun:
        """The run when nobody is to work on it."""
        RUN_STATES.check(self.name, self.state, RunState.PAUSED)
        progress = replace(self.progress, phase="paused", remaining_s=None)
        return replace(self, state=RunState.PAUSED, pause_requested=False, progress=progress)

    def resumed(self) -> TrainingRun:
        """The run when it is wanted again; a wish to pause that was not fulfilled yet is taken back."""
        if self.pause_requested:
            return replace(self, pause_requested=False)
        if self.state is not RunState.PAUSED:
            raise IllegalTransition(self.name, self.state.value, [RunState.PAUSED.value])
        return replace(self, state=RunState.PENDING, progress=replace(self.progress, phase="waiting"))

    def signalled(self, signal: RunSignal) -> TrainingRun:
        """The run with something that a person should know; what was told before at that step is told once."""
        others = [s for s in self.signals if (s.name, s.step) != (signal.name, signal.step)]
        return replace(self, signals=(*others, signal)[-SIGNALS_KEPT:])

    def at(self, phase: str) -> TrainingRun:
        """The run in another phase."""
        return replace(self, progress=replace(self.progress, phase=phase))

    def planned(self, steps: int, precision: str) -> TrainingRun:
        """The run when the number of its steps is known."""
        return replace(self, precision=precision, progress=replace(self.progress, total=steps))

    def measured(self, metric: TrainingMetric) -> TrainingRun:
        """The run with a newer metric."""
        progress = self.progress
        return replace(
            self,
            latest_metric=metric,
            progress=replace(progress, done=metric.step, remaining_s=self._remaining_s(metric)),
            first_step_time=self.first_step_time or (metric.time if metric.step else None),
        )

    def saved(self, checkpoint: Checkpoint, keep: int = KEPT_CHECKPOINTS) -> tuple[TrainingRun, tuple[Checkpoint, ...]]:
        """The run with a newer checkpoint, and those that are not needed any more."""
        others = tuple(known for known in self.checkpoints if known.file.sha256 != checkpoint.file.sha256)
        kept = (checkpoint, *others)[:keep]
        return replace(self, checkpoints=kept), others[keep - 1 :]

    def succeeded(self, result: TrainingResult, now: datetime) -> TrainingRun:
        """The run with its result."""
        RUN_STATES.check(self.name, self.state, RunState.SUCCEEDED)
        progress = replace(self.progress, done=result.steps, phase="", remaining_s=None)
        return replace(
            self, state=RunState.SUCCEEDED, pause_requested=False, result=result, progress=progress, end_time=now
        )

    def failed(self, reason: str, message: str, now: datetime) -> TrainingRun:
        """The run with the reason why it cannot end; one that waits for another try goes by way of RUNNING."""
        if self.state is RunState.PENDING:
            return replace(self, state=RunState.RUNNING).failed(reason, message, now)
        RUN_STATES.check(self.name, self.state, RunState.FAILED)
        return self._ended(RunState.FAILED, now, reason, message)

    def cancelled(self, now: datetime) -> TrainingRun:
        """The run when somebody does not want it any more."""
        RUN_STATES.check(self.name, self.state, RunState.CANCELLED)
        return self._ended(RunState.CANCELLED, now)

    def tidied(self) -> TrainingRun:
        """The run after its checkpoints were removed."""
        return replace(self, checkpoints=())

    def _ended(self, state: RunState, now: datetime, reason: str = "", message: str = "") -> TrainingRun:
        progress = replace(self.progress, phase="", remaining_s=None)
        return replace(
            self,
            state=state,
            pause_requested=False,
            error_reason=reason,
            error_message=message,
            progress=progress,
            end_time=now,
        )

    def _remaining_s(self, metric: TrainingMetric) -> float | None:
        before = self.latest_metric
        if before is None or metric.step <= before.step:
            return self.progress.remaining_s
        step_s = (metric.time - before.time).total_seconds() / (metric.step - before.step)
        return step_s * max(0, self.progress.total - metric.step)
