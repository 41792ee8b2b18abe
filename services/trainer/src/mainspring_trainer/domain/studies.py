"""Searching for better settings of a recipe: what is varied, and what was tried. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.states import StateMachine
from mainspring_trainer.domain.recipes import Adaptation, TuningRecipe

Setting = float | int | str | bool
_NEVER_VARIED = {"name", "dataset", "base_model_version", "model", "method", "start_from"}
HOPELESS_AFTER = 3
"""So many failed trials and none else end a study."""


class StudyState(StrEnum):
    """Where a search stands."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


STUDY_STATES = StateMachine(
    {
        StudyState.RUNNING: {StudyState.SUCCEEDED, StudyState.FAILED, StudyState.CANCELLED},
        StudyState.SUCCEEDED: set(),
        StudyState.FAILED: set(),
        StudyState.CANCELLED: set(),
    }
)


class TrialState(StrEnum):
    """What became of a trial."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"


TRIAL_STATES = StateMachine(
    {
        TrialState.RUNNING: {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED},
        TrialState.COMPLETE: set(),
        TrialState.PRUNED: set(),
        TrialState.FAILED: set(),
    }
)


class Sampler(StrEnum):
    """Who chooses the next trial."""

    TPE = "TPE"
    RANDOM = "RANDOM"
    NSGA2 = "NSGA2"


class Pruner(StrEnum):
    """Who ends trials early."""

    NONE = "NONE"
    MEDIAN = "MEDIAN"
    SUCCESSIVE_HALVING = "SUCCESSIVE_HALVING"


class Objective(StrEnum):
    """What is to be made small."""

    VALIDATION_LOSS = "VALIDATION_LOSS"
    CPU_SECONDS = "CPU_SECONDS"
    ADAPTER_BYTES = "ADAPTER_BYTES"
    GPU_SECONDS = "GPU_SECONDS"


@dataclass(frozen=True)
class Parameter:
    """A setting that is varied: over a range, or over single values when `choices` is not empty."""

    path: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    choices: tuple[Setting, ...] = ()

    @property
    def ends(self) -> Sequence[Setting]:
        """Values between or among which all others are."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value is one that may be tried."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Budget:
    """When a study has tried enough; `cpu_s` 0 is no limit."""

    trials: int
    parallel_trials: int = 1
    cpu_s: float = 0.0


@dataclass(frozen=True)
class StudyTrial:
    """One training run of a study.

    Attributes:
        losses: Validation losses by hundredths of the run, by which trials are compared while they run.
        memory: What sampler and pruner want to know of it again.
    """

    name: str
    study: str
    number: int
    parameters: Mapping[str, Setting]
    run: str
    state: TrialState = TrialState.RUNNING
    values: tuple[float, ...] = ()
    losses: Mapping[int, float] = field(default_factory=dict[int, float])
    memory: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cpu_s: float = 0.0
    error_reason: str = ""
    error_message: str = ""

    def ended(self, state: TrialState, **changes: Any) -> StudyTrial:
        """The trial when nothing more comes of it."""
        TRIAL_STATES.check(self.name, self.state, state)
        return replace(self, state=state, **changes)


@dataclass(frozen=True)
class StudyResult:
    """What was found; see the contract's message of the same name."""

    pareto_trials: tuple[int, ...]
    best_trial: int
    importance: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """A search.

    Attributes:
        recipe: The recipe as it was when the study was asked for.
    """

    name: str
    recipe: TuningRecipe
    dataset_version: str
    space: tuple[Parameter, ...]
    budget: Budget
    create_time: datetime
    objectives: tuple[Objective, ...] = (Objective.VALIDATION_LOSS,)
    sampler: Sampler = Sampler.TPE
    pruner: Pruner = Pruner.MEDIAN
    seed: int = 0
    recipe_trial: bool = True
    register_best: bool = False
    priority: int = 0
    state: StudyState = StudyState.RUNNING
    result: StudyResult | None = None
    ended_trials: Mapping[str, int] = field(default_factory=dict[str, int])
    cpu_s: float = 0.0
    error_reason: str = ""
    error_message: str = ""
    end_time: datetime | None = None

    def check(self) -> None:
        """Raises `InvalidInput` unless everything that is varied can be, and every objective be measured."""
        violations: list[FieldViolation] = []
        for index, one in enumerate(self.space):
            where = f"study.space[{index}]"
            try:
                current = _read(self.recipe, one.path)
            except KeyError:
                violations.append(FieldViolation(f"{where}.path", f"{one.path!r} is no setting that can be varied"))
                continue
            violations += [FieldViolation(where, problem) for problem in _problems(one, current)]
        if len({one.path for one in self.space}) != len(self.space):
            violations.append(FieldViolation("study.space", "names a setting twice"))
        whole = self.recipe.method.makes_whole or self.recipe.adaptation is Adaptation.FULL
        if whole and Objective.ADAPTER_BYTES in self.objectives:
            description = "has ADAPTER_BYTES, and the recipe makes whole models without an adapter; leave it out"
            violations.append(FieldViolation("study.objectives", description))
        if violations:
            text = "; ".join(f"{v.field} {v.description}" for v in violations[:5])
            raise InvalidInput(text, reason="SEARCH_SPACE_UNUSABLE", violations=violations)

    def recipe_with(self, parameters: Mapping[str, Setting]) -> TuningRecipe:
        """The recipe that a trial applies."""
        recipe = self.recipe
        for path, value in parameters.items():
            recipe = _write(recipe, path, value)
        if "lora.rank" in parameters and "lora.alpha" not in parameters:
            scale = self.recipe.lora.alpha / self.recipe.lora.rank
            recipe = replace(recipe, lora=replace(recipe.lora, alpha=scale * recipe.lora.rank))
        return recipe

    def recipe_parameters(self) -> Mapping[str, Setting] | None:
        """The recipe's own settings, when all of them may be tried."""
        own = {one.path: _read(self.recipe, one.path) for one in self.space}
        return own if all(one.holds(own[one.path]) for one in self.space) else None

    def wants_more(self, trials: Sequence[StudyTrial]) -> bool:
        """Whether another trial may begin now."""
        running = sum(trial.state is TrialState.RUNNING for trial in trials)
        spent = sum(trial.cpu_s for trial in trials)
        return (
            self.state is StudyState.RUNNING
            and len(trials) < self.budget.trials
            and running < self.budget.parallel_trials
            and (not self.budget.cpu_s or spent < self.budget.cpu_s)
        )

    def counting(self, trials: Sequence[StudyTrial], result: StudyResult | None) -> Study:
        """The study with what its trials have come to."""
        counts = {state.value: sum(trial.state is state for trial in trials) for state in TrialState}
        return replace(self, ended_trials=counts, cpu_s=sum(trial.cpu_s for trial in trials), result=result)

    def ended(self, state: StudyState, now: datetime, reason: str = "", message: str = "") -> Study:
        """The study when it has ended."""
        STUDY_STATES.check(self.name, self.state, state)
        return replace(self, state=state, end_time=now, error_reason=reason, error_message=message)


def hopeless(trials: Sequence[StudyTrial]) -> StudyTrial | None:
    """The last trial to fail when all that have ended have failed, and so would more; those that run say nothing."""
    ended = [trial for trial in trials if trial.state is not TrialState.RUNNING]
    failed = [trial for trial in ended if trial.state is TrialState.FAILED]
    return failed[-1] if len(failed) >= HOPELESS_AFTER and len(failed) == len(ended) else None


def trial_key(number: int) -> str:
    """What orders a study's trials."""
    return f"{number:06}"


def _problems(one: Parameter, current: Setting) -> list[str]:
    if one.choices:
        wrong = [json.dumps(choice) for choice in one.choices if not _fits(choice, current)]
        return [f"{', '.join(wrong)} cannot be {one.path}, which is like {json.dumps(current)}"] if wrong else []
    problems: list[str] = []
    if isinstance(current, bool | str) or (isinstance(current, int) and not one.whole):
        problems.append(f"{one.path} is like {json.dumps(current)}; give it choices, or an int_range for whole numbers")
    if one.low >= one.high:
        problems.append("low must be below high")
    if one.log and one.low <= 0:
        problems.append("low must be above 0 where factors count")
    return problems


def _fits(value: Setting, like: Setting) -> bool:
    if isinstance(like, bool) or isinstance(value, bool):
        return isinstance(like, bool) and isinstance(value, bool)
    if isinstance(like, float):
        return isinstance(value, int | float)
    return type(value) is type(like)


def _read(recipe: TuningRecipe, path: str) -> Setting:
    value: Any = recipe
    for part in path.split("."):
        if not is_dataclass(value) or part in _NEVER_VARIED or part not in {f.name for f in fields(value)}:
            raise KeyError(path)
        value = getattr(value, part)
    if not isinstance(value, float | int | str | bool):
        raise KeyError(path)
    return value


def _write(value: Any, path: str, setting: Setting) -> Any:
    head, _, rest = path.partition(".")
    current = getattr(value, head)
    if rest:
        return replace(value, **{head: _write(current, rest, setting)})
    # A whole number may stand for a number; a recipe that is read back has the type that it declares.
    return replace(value, **{head: float(setting) if isinstance(current, float) else setting})
