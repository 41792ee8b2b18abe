"""Runs: one candidate measured against one baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mainspring_evaluator.domain.suites import EvaluationSuite
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.states import StateMachine
from mainspring_svckit.values import NO_UNIT, Fidelity, Progress, ScorerFailure, ScorerResult, ServedUnit

PROGRESS_UNIT = "answers"


class RunState(StrEnum):
    """Where a run stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


RUN_STATES = StateMachine(
    {
        RunState.PENDING: {RunState.RUNNING, RunState.CANCELLED},
        RunState.RUNNING: {RunState.PENDING, RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED},
        RunState.SUCCEEDED: set(),
        RunState.FAILED: set(),
        RunState.CANCELLED: set(),
    }
)


@dataclass(frozen=True)
class Latency:
    """How long whole answers took, in seconds."""

    p50_s: float
    p95_s: float


@dataclass(frozen=True)
class Subjects:
    """What exactly is measured, on what; resolved once, so that a run that goes on elsewhere measures the same.

    Attributes:
        candidate_manifest_sha256: Files of the candidate.
        baseline: Version compared with; empty for none.
        baseline_manifest_sha256: Its files.
        dataset_version: Data whose test split is used.
        dataset_root_sha256: Digest of its rows.
        cycle: Turn of the loop.
        candidate_unit: What the candidate is asked with.
        baseline_unit: What the baseline is asked with.
    """

    candidate_manifest_sha256: str
    baseline: str
    baseline_manifest_sha256: str
    dataset_version: str
    dataset_root_sha256: str
    cycle: str
    candidate_unit: ServedUnit = NO_UNIT
    baseline_unit: ServedUnit = NO_UNIT


@dataclass(frozen=True)
class JudgeReport:
    """What a judge did in a run, and whether its word counted; as `mainspring.evaluation.v1.JudgeReport`."""

    judge: str
    model_version: str
    questions: int
    nonsense: int
    order_contradictions: int
    labels: int
    kappa: float | None
    has_vote: bool
    explanation: str


@dataclass(frozen=True)
class Findings:
    """What a run found.

    Attributes:
        results: One for each scorer that could be applied.
        items: Items measured.
        fidelity: How close the engine is; None when that was not measured.
        latency: Of the candidate's answers.
        failures: One for each scorer that could not be applied.
        judges: What the judges did.
        generated_answers: Answers made for this run; the others were there.
    """

    results: tuple[ScorerResult, ...]
    items: int
    fidelity: Fidelity | None
    latency: Latency
    failures: tuple[ScorerFailure, ...] = ()
    judges: tuple[JudgeReport, ...] = ()
    generated_answers: int = 0

    def check(self) -> None:
        """Raises `PreconditionFailed` (RESULT_NOT_FINITE) when a figure is no number, so that none is decided on."""
        for result in self.results:
            estimates = [e for e in (result.candidate, result.baseline, result.difference) if e is not None]
            tests = (result.p_value, result.test_p_value, result.adjusted_p_value)
            figures = [*tests, *(figure for e in estimates for figure in (e.value, e.low, e.high))]
            if not all(map(math.isfinite, figures)):
                message = f"{result.scorer} is not a finite number; look at the items' scores"
                raise PreconditionFailed("RESULT_NOT_FINITE", message, {"scorer": result.scorer})
        if self.fidelity is not None and not math.isfinite(self.fidelity.mean_kl_nats):
            message = "the mean KL divergence is not a finite number; register the version with a new probe"
            raise PreconditionFailed("RESULT_NOT_FINITE", message)


@dataclass(frozen=True)
class EvaluationRun:
    """The work of one measurement.

    Attributes:
        name: Resource name.
        suite: The suite as it stood when the run was asked for.
        candidate: Version measured.
        create_time: When it was asked for.
        wanted_baseline: Version to compare with, when the caller named one.
        cycle: Turn of the loop; runs asked for by hand join that of the candidate.
        state: Where it stands.
        subjects: Set once they are resolved.
        progress: In generated answers.
        findings: Set when SUCCEEDED.
        error_reason: Set when FAILED.
        error_message: Set when FAILED.
        start_time: When it was first taken.
        end_time: When it ended.
    """

    name: str
    suite: EvaluationSuite
    candidate: str
    create_time: datetime
    wanted_baseline: str = ""
    cycle: str = ""
    state: RunState = RunState.PENDING
    subjects: Subjects | None = None
    progress: Progress = field(default_factory=lambda: Progress(unit=PROGRESS_UNIT))
    findings: Findings | None = None
    error_reason: str = ""
    error_message: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None

    def started(self, now: datetime) -> EvaluationRun:
        """The run with a worker; one that another worker left behind is simply taken over."""
        if self.state is RunState.RUNNING:
            return self
        RUN_STATES.check(self.name, self.state, RunState.RUNNING)
        return replace(self, state=RunState.RUNNING, start_time=self.start_time or now)

    def resolved(self, subjects: Subjects) -> EvaluationRun:
        """The run that knows what it measures."""
        return replace(self, subjects=subjects, cycle=subjects.cycle)

    def advanced(self, progress: Progress) -> EvaluationRun:
        """The run a step further."""
        return replace(self, progress=progress)

    def succeeded(self, findings: Findings, now: datetime) -> EvaluationRun:
        """The run with what it found."""
        RUN_STATES.check(self.name, self.state, RunState.SUCCEEDED)
        done = replace(self.progress, done=self.progress.total, phase="", remaining_s=None)
        return replace(self, state=RunState.SUCCEEDED, findings=findings, progress=done, end_time=now)

    def failed(self, reason: str, message: str, now: datetime) -> EvaluationRun:
        """The run with the reason why it cannot end."""
        RUN_STATES.check(self.name, self.state, RunState.FAILED)
        return replace(self, state=RunState.FAILED, error_reason=reason, error_message=message, end_time=now)

    def cancelled(self, now: datetime) -> EvaluationRun:
        """The run that nobody wants any more."""
        RUN_STATES.check(self.name, self.state, RunState.CANCELLED)
        return replace(self, state=RunState.CANCELLED, end_time=now)
