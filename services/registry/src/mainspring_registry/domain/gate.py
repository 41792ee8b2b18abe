"""The gate: what a policy says of the evidence for one version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mainspring_svckit.values import Fidelity, ScorerResult

DEFAULT_MAX_MEAN_KL_NATS = 0.1
DEFAULT_MIN_ITEMS = 20


@dataclass(frozen=True)
class GuardRule:
    """A scorer that may not fall below minus `margin`."""

    scorer: str
    margin: float = 0.0


@dataclass(frozen=True)
class ReleasePolicy:
    """What evidence a version of a model needs."""

    name: str
    model: str
    evaluation_suite: str
    primary_scorer: str
    min_gain: float = 0.0
    guards: tuple[GuardRule, ...] = ()
    max_mean_kl_nats: float = DEFAULT_MAX_MEAN_KL_NATS
    min_items: int = DEFAULT_MIN_ITEMS


@dataclass(frozen=True)
class Evidence:
    """What was measured of a version.

    Attributes:
        evaluation_run: Where it was measured.
        candidate_manifest_sha256: Manifest of what was measured.
        baseline: Version that it was compared with.
        results: One for each scorer.
        items: Items measured.
        fidelity: None when it was not measured.
        dataset_version: Whose questions were asked.
    """

    evaluation_run: str
    candidate_manifest_sha256: str
    baseline: str
    results: tuple[ScorerResult, ...]
    items: int
    fidelity: Fidelity | None
    dataset_version: str = ""


class Outcome(StrEnum):
    """What the gate said."""

    ALLOWED = "ALLOWED"
    REFUSED = "REFUSED"


@dataclass(frozen=True)
class RuleResult:
    """One rule with its reasoning."""

    rule: str
    passed: bool
    explanation: str


@dataclass(frozen=True)
class GateDecision:
    """What the gate said of one version, and on what evidence; it never changes."""

    name: str
    model: str
    model_version: str
    manifest_sha256: str
    outcome: Outcome
    rules: tuple[RuleResult, ...]
    evidence: Evidence
    cycle: str
    create_time: datetime

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that were broken, in words."""
        return tuple(f"{rule.rule}: {rule.explanation}" for rule in self.rules if not rule.passed)


def judge(
    policy: ReleasePolicy, evidence: Evidence, *, manifest_sha256: str, wanted_baseline: str
) -> tuple[RuleResult, ...]:
    """Applies every rule, also after one was broken, so that people see all that is wrong at once.

    Args:
        policy: The rules.
        evidence: What was measured.
        manifest_sha256: Manifest of the version that would be released.
        wanted_baseline: Version that serves now, which is what the candidate must be compared with.
    """
    return (
        _same_version(evidence, manifest_sha256),
        _right_baseline(evidence, wanted_baseline),
        _enough_items(policy, evidence),
        _close_engine(policy, evidence),
        _primary(policy, evidence.results),
        *(_guard(guard, evidence.results) for guard in policy.guards),
    )


def outcome_of(rules: Sequence[RuleResult]) -> Outcome:
    """Allowed only if every rule was kept."""
    return Outcome.ALLOWED if all(rule.passed for rule in rules) else Outcome.REFUSED


def _same_version(evidence: Evidence, manifest_sha256: str) -> RuleResult:
    same = evidence.candidate_manifest_sha256 == manifest_sha256
    words = "what was measured is what would be released" if same else "the evidence is for other files"
    return RuleResult("evidence", same, f"{words} (manifest {evidence.candidate_manifest_sha256[:12]})")


def _right_baseline(evidence: Evidence, wanted: str) -> RuleResult:
    right = evidence.baseline == wanted
    words = "which serves now" if right else f"but {wanted} serves now; evaluate again"
    return RuleResult("baseline", right, f"compared with {evidence.baseline or 'nothing'}, {words}")


def _enough_items(policy: ReleasePolicy, evidence: Evidence) -> RuleResult:
    enough = evidence.items >= policy.min_items
    return RuleResult("items", enough, f"{evidence.items} items measured, at least {policy.min_items} needed")


def _close_engine(policy: ReleasePolicy, evidence: Evidence) -> RuleResult:
    if evidence.fidelity is None:
        return RuleResult("fidelity", False, "the engine's closeness to the reference implementation was not measured")
    close = evidence.fidelity.mean_kl_nats <= policy.max_mean_kl_nats
    relation = "at most" if close else "more than"
    return RuleResult(
        "fidelity",
        close,
        f"mean KL divergence of the serving engine from the reference is {evidence.fidelity.mean_kl_nats:.4f} nats over"
        f" {evidence.fidelity.positions} positions, {relation} {policy.max_mean_kl_nats:g}",
    )


def _primary(policy: ReleasePolicy, results: Sequence[ScorerResult]) -> RuleResult:
    rule = f"primary:{policy.primary_scorer}"
    return _difference_above(rule, policy.primary_scorer, policy.min_gain, results)


def _guard(guard: GuardRule, results: Sequence[ScorerResult]) -> RuleResult:
    return _difference_above(f"guard:{guard.scorer}", guard.scorer, -guard.margin, results)


def _difference_above(rule: str, scorer: str, bound: float, results: Sequence[ScorerResult]) -> RuleResult:
    result = next((r for r in results if r.scorer == scorer), None)
    gain = result.gain if result is not None else None
    if result is None or gain is None or result.baseline is None:
        return RuleResult(rule, False, f"{scorer} was not compared with a baseline")
    # Written so that NaN never passes.
    passed = gain.low > bound
    what = "gain (less is better)" if result.lower_is_better else "difference"
    return RuleResult(
        rule,
        passed,
        f"{scorer} {result.baseline.value:.4f} -> {result.candidate.value:.4f}, {what} {gain.value:+.4f}"
        f" [{gain.low:+.4f}, {gain.high:+.4f}] at {gain.confidence_level:.0%};"
        f" its lower end is {'above' if passed else 'not above'} {bound:+g}",
    )
