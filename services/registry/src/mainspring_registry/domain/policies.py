"""What a team asks of a version before it may serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import project_of

DEFAULT_MAX_MEAN_KL_NATS = 0.1
DEFAULT_MIN_ITEMS = 20
DEFAULT_MIN_CONFIDENCE_LEVEL = 0.95


class Comparison(StrEnum):
    """What a suite compares a version with."""

    CHAMPION = "CHAMPION"
    PARENT = "PARENT"


@dataclass(frozen=True)
class GuardRule:
    """A scorer that may not fall below minus `margin`."""

    scorer: str
    margin: float = 0.0


@dataclass(frozen=True)
class SliceRule:
    """A scorer that may not fall below minus `margin` on one slice of the items."""

    scorer: str
    slice: str
    margin: float = 0.0


@dataclass(frozen=True)
class SuiteRule:
    """A suite that must have measured the version, and what may not fall there.

    Attributes:
        suite_sha256: What the suite must have said; empty for whatever it says.
        comparison: What the version must have been compared with.
    """

    evaluation_suite: str
    guards: tuple[GuardRule, ...] = ()
    slices: tuple[SliceRule, ...] = ()
    suite_sha256: str = ""
    comparison: Comparison = Comparison.CHAMPION


class ApproverRole(StrEnum):
    """Whose approval counts; an admin counts as a releaser too."""

    RELEASER = "RELEASER"
    ADMIN = "ADMIN"


@dataclass(frozen=True)
class ApprovalRule:
    """How many people of a role must approve."""

    role: ApproverRole
    count: int


@dataclass(frozen=True)
class ServingUnit:
    """What a release names beside the version; empty for the caller's choice."""

    prompt_version: str = ""
    collection: str = ""
    guard_policy: str = ""
    temperature: float | None = None
    max_output_tokens: int = 0
    prompt_variables: Mapping[str, str] = field(default_factory=dict[str, str])

    def check(self) -> None:
        """Raises `InvalidInput` (UNIT_NOT_SERVABLE) for what no door can apply."""
        if self.prompt_variables and not self.prompt_version:
            message = "prompt_variables are for a prompt; name a prompt_version too"
            raise InvalidInput(message, reason="UNIT_NOT_SERVABLE")


@dataclass(frozen=True)
class ReleasePolicy:
    """What evidence a version of a model needs, and whose word.

    Attributes:
        evaluation_suite: Suite whose primary scorer must improve.
        primary_scorer: Scorer whose gain must lie above `min_gain`.
        min_gain: Negative for non-inferiority.
        max_evidence_age_s: Oldest evidence that counts; 0 for any.
        max_adjusted_p: Largest corrected p value of the primary scorer; 0 asks for none.
        unit: What releases name beside the version.
        suite_sha256: What `evaluation_suite` must have said; empty for whatever it says.
        min_confidence_level: Smallest confidence level of intervals that count.
    """

    name: str
    model: str
    evaluation_suite: str
    primary_scorer: str
    min_gain: float = 0.0
    guards: tuple[GuardRule, ...] = ()
    max_mean_kl_nats: float = DEFAULT_MAX_MEAN_KL_NATS
    min_items: int = DEFAULT_MIN_ITEMS
    slices: tuple[SliceRule, ...] = ()
    further_suites: tuple[SuiteRule, ...] = ()
    max_evidence_age_s: float = 0.0
    max_adjusted_p: float = 0.0
    approvals: tuple[ApprovalRule, ...] = ()
    unit: ServingUnit = field(default_factory=ServingUnit)
    suite_sha256: str = ""
    min_confidence_level: float = DEFAULT_MIN_CONFIDENCE_LEVEL

    @property
    def suite_rules(self) -> Sequence[SuiteRule]:
        """What is asked of every suite, the one with the primary scorer first."""
        own = SuiteRule(self.evaluation_suite, self.guards, self.slices, self.suite_sha256)
        return (own, *self.further_suites)

    @property
    def suites(self) -> Sequence[str]:
        """Every suite whose word is needed, the one with the primary scorer first."""
        return tuple(rule.evaluation_suite for rule in self.suite_rules)

    def check(self) -> None:
        """Raises `InvalidInput` when the policy contradicts itself."""
        if len(set(self.suites)) != len(self.suites):
            raise InvalidInput("a suite is named twice; put its rules in one place", reason="POLICY_INVALID")
        roles = [rule.role for rule in self.approvals]
        if len(set(roles)) != len(roles):
            raise InvalidInput("a role is named by two approval rules; add their counts", reason="POLICY_INVALID")
        project = project_of(self.name)
        for name in (self.unit.prompt_version, self.unit.collection, self.unit.guard_policy):
            if name and project_of(name) != project:
                raise InvalidInput(f"{name} is not of the policy's project", reason="PROJECTS_MIXED")
