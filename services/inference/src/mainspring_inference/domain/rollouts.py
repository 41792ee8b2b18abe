"""Moving traffic to a release."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import ReleaseName, RolloutName
from mainspring_svckit.states import StateMachine
from mainspring_svckit.values import NO_UNIT, ServedUnit

DEFAULT_MAX_ERROR_RATE = 0.1
MIN_ANSWERS_TO_JUDGE = 5
"""Fewer answers than this say nothing about an error rate."""


class RolloutState(StrEnum):
    """Where a roll-out stands."""

    LOADING = "LOADING"
    SHIFTING = "SHIFTING"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"


ROLLOUT_STATES = StateMachine(
    {
        RolloutState.LOADING: {RolloutState.SHIFTING, RolloutState.PROMOTED, RolloutState.ROLLED_BACK},
        RolloutState.SHIFTING: {RolloutState.SHIFTING, RolloutState.PROMOTED, RolloutState.ROLLED_BACK},
        RolloutState.PROMOTED: set(),
        RolloutState.ROLLED_BACK: set(),
    }
)


@dataclass(frozen=True)
class RolloutPolicy:
    """How traffic moves to a new release of a model; the last step is always 100 percent."""

    name: str
    model: str
    step_percents: tuple[int, ...] = (100,)
    min_answers: int = 0
    max_step_wait_s: float = 0.0
    max_error_rate: float = DEFAULT_MAX_ERROR_RATE

    def check(self) -> None:
        """Raises `InvalidInput` unless the steps rise to 100."""
        rising = all(a < b for a, b in zip(self.step_percents, self.step_percents[1:], strict=False))
        if not rising or not self.step_percents or self.step_percents[-1] != 100:
            raise InvalidInput("step_percents must rise and end with 100", reason="STEPS_NOT_RISING")


class Verdict(StrEnum):
    """What the answers of a step say."""

    WAIT = "WAIT"
    GO_ON = "GO_ON"
    ROLL_BACK = "ROLL_BACK"


@dataclass(frozen=True)
class Rollout:
    """The move of traffic to one release; `unit` is what the release was signed to go with the version."""

    name: str
    model: str
    release: str
    model_version: str
    policy: RolloutPolicy
    cycle: str
    create_time: datetime
    state: RolloutState = RolloutState.LOADING
    percent: int = 0
    step_answers: int = 0
    step_errors: int = 0
    step_time: datetime | None = None
    reason: str = "the version is being loaded"
    end_time: datetime | None = None
    unit: ServedUnit = NO_UNIT

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return ROLLOUT_STATES.ended(self.state)

    @property
    def served(self) -> Served:
        """What gets the traffic."""
        return Served(self.release, self.model_version, self.cycle, self.unit)

    @property
    def next_percent(self) -> int:
        """The share of the step after this one."""
        return next(percent for percent in self.policy.step_percents if percent > self.percent)

    def counted(self, *, failed: bool) -> Rollout:
        """The roll-out with one answer more in this step."""
        return replace(self, step_answers=self.step_answers + 1, step_errors=self.step_errors + failed)

    def verdict(self, now: datetime) -> tuple[Verdict, str]:
        """What this step's answers say, and why, in words. Missing answers never decide for the release."""
        policy = self.policy
        seen = f"{self.step_errors} of {self.step_answers} answers failed at {self.percent} %"
        enough_to_judge = self.step_answers >= max(MIN_ANSWERS_TO_JUDGE, min(policy.min_answers, MIN_ANSWERS_TO_JUDGE))
        if enough_to_judge and self.step_errors > policy.max_error_rate * self.step_answers:
            return Verdict.ROLL_BACK, f"{seen}, more than {policy.max_error_rate:.0%}"
        if self.step_answers >= policy.min_answers:
            return Verdict.GO_ON, seen
        waited = (now - self.step_time).total_seconds() if self.step_time is not None else 0.0
        if policy.max_step_wait_s and waited >= policy.max_step_wait_s:
            return Verdict.WAIT, f"holds at {self.percent} %: {self.step_answers} of {policy.min_answers} answers came"
        return Verdict.WAIT, f"waits for {policy.min_answers - self.step_answers} more answers at {self.percent} %"

    def shifted(self, percent: int, now: datetime) -> Rollout:
        """The roll-out in its next step."""
        return replace(
            self._to(RolloutState.SHIFTING, f"{percent} % of the traffic"),
            percent=percent,
            step_answers=0,
            step_errors=0,
            step_time=now,
        )

    def promoted(self, now: datetime) -> Rollout:
        """The roll-out with all traffic moved."""
        return replace(self._to(RolloutState.PROMOTED, "gets all traffic"), percent=100, end_time=now)

    def rolled_back(self, reason: str, now: datetime) -> Rollout:
        """The roll-out with all traffic taken away."""
        return replace(self._to(RolloutState.ROLLED_BACK, reason), percent=0, end_time=now)

    def _to(self, state: RolloutState, reason: str) -> Rollout:
        ROLLOUT_STATES.check(self.name, self.state, state)
        return replace(self, state=state, reason=reason)


def rollout_name(release: str, suffix: str = "") -> str:
    """A release has one roll-out, and one more each time that it is restored (`suffix` tells them apart)."""
    name = ReleaseName.parse(release)
    return str(RolloutName(name.project, f"{name.model[:40]}-r{name.release}{suffix}"))


@dataclass(frozen=True)
class Served:
    """A release's version that gets traffic."""

    release: str
    model_version: str
    cycle: str = ""
    unit: ServedUnit = NO_UNIT


@dataclass(frozen=True)
class Traffic:
    """Who gets a model's traffic.

    Attributes:
        name: The model.
        revision: Counts every change of the model's routing table.
        stable: What gets the traffic that the candidate does not get.
        candidate: What is being rolled out.
        percent: The candidate's share.
    """

    name: str
    revision: int = 0
    stable: Served | None = None
    candidate: Served | None = None
    percent: int = 0

    def shares_of(self, model_version: str) -> list[tuple[int, Served]]:
        """A version's shares in percent, by the release under which it has each; two when releases of it follow."""
        shares: list[tuple[int, Served]] = []
        taken = 0
        if self.candidate is not None and self.percent:
            taken = 100 if self.stable is None else self.percent
            shares.append((taken, self.candidate))
        if self.stable is not None:
            shares.append((100 - taken, self.stable))
        return [(percent, served) for percent, served in shares if served.model_version == model_version]
