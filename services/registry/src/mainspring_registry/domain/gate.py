"""The gate: what a policy says of the evidence for one version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mainspring_registry.domain.policies import Comparison, GuardRule, ReleasePolicy, SliceRule, SuiteRule
from mainspring_svckit.names import EvaluationSuiteName
from mainspring_svckit.values import NO_UNIT, Estimate, Fidelity, ScorerResult, ServedUnit, gain_of


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
        suite_sha256: The suite as it was applied.
        dataset_root_sha256: The questions.
        candidate_unit_sha256: Prompt, context and sampling that it was asked with; empty for none.
        baseline_unit_sha256: The same of the baseline.
    """

    evaluation_run: str
    candidate_manifest_sha256: str
    baseline: str
    results: tuple[ScorerResult, ...]
    items: int
    fidelity: Fidelity | None
    dataset_version: str = ""
    suite_sha256: str = ""
    dataset_root_sha256: str = ""
    candidate_unit_sha256: str = ""
    baseline_unit_sha256: str = ""


@dataclass(frozen=True)
class WantedUnits:
    """What both must have been asked with.

    Attributes:
        candidate: What would go live with the version; None when the policy's unit cannot.
        problem: Why it cannot.
        baseline: What serves with the baseline now; None when the baseline does not serve.
    """

    candidate: ServedUnit | None = NO_UNIT
    problem: str = ""
    baseline: ServedUnit | None = None


NO_UNITS = WantedUnits()


@dataclass(frozen=True)
class WantedBaselines:
    """What a version must have been compared with.

    Attributes:
        champion: What serves now; the foundation model while nothing does.
        parent: What it was made from.
    """

    champion: str
    parent: str

    def of(self, rule: SuiteRule) -> str:
        """What a suite must have compared with."""
        return self.parent if rule.comparison is Comparison.PARENT else self.champion


@dataclass(frozen=True)
class EvidenceRecord:
    """Evidence as the registry heard of it; it never changes.

    Attributes:
        name: The evaluation run.
        model_version: Version measured.
        suite: Suite applied; empty in records from before suites were kept, which are the primary suite's.
        evidence: What was measured.
        cycle: Turn of the loop.
        create_time: When the registry heard of it.
    """

    name: str
    model_version: str
    suite: str
    evidence: Evidence
    cycle: str
    create_time: datetime


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
    further_evidence: tuple[Evidence, ...] = ()
    policy_sha256: str = ""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that were broken, in words."""
        return tuple(f"{rule.rule}: {rule.explanation}" for rule in self.rules if not rule.passed)

    @property
    def evaluation_runs(self) -> tuple[str, ...]:
        """All the evidence, the primary suite's first."""
        return tuple(evidence.evaluation_run for evidence in (self.evidence, *self.further_evidence))


def judge(
    policy: ReleasePolicy,
    records: Mapping[str, EvidenceRecord],
    *,
    manifest_sha256: str,
    wanted_baseline: str,
    now: datetime,
    units: WantedUnits = NO_UNITS,
    wanted_parent: str = "",
) -> tuple[RuleResult, ...]:
    """Applies every rule, also after one was broken, so that people see all that is wrong at once.

    Args:
        policy: The rules.
        records: The newest evidence by suite; a suite may be missing.
        manifest_sha256: Manifest of the version that would be released.
        wanted_baseline: Version that serves now, which is what the candidate must be compared with.
        now: Evidence that is too old by now does not count.
        units: What both must have been asked with.
        wanted_parent: Version that the candidate was made from, for suites that must compare with that.
    """
    wanted = WantedBaselines(wanted_baseline, wanted_parent)
    rules: list[RuleResult] = []
    for rule in policy.suite_rules:
        suite = rule.evaluation_suite
        primary = suite == policy.evaluation_suite
        prefix = "" if primary else f"{EvaluationSuiteName.parse(suite).suite}/"
        record = records.get(suite)
        if record is None:
            rules.append(RuleResult(f"{prefix}evidence", False, f"{suite} has not measured this version yet"))
            continue
        evidence = record.evidence
        rules += [_same_version(prefix, evidence, manifest_sha256), _right_baseline(prefix, rule, evidence, wanted)]
        rules += _sound(prefix, policy, rule, record, now)
        serves = wanted.of(rule) == wanted.champion
        rules += _same_units(prefix, evidence, units if serves else replace(units, baseline=None))
        if primary:
            rules += [_close_engine(policy, evidence), *_primary(policy, evidence.results)]
        rules += [_guard(prefix, guard, evidence.results) for guard in rule.guards]
        rules += [_slice(prefix, of_slice, evidence.results) for of_slice in rule.slices]
    return tuple(rules)


def whole_files(lost: Sequence[str]) -> RuleResult:
    """Whether the artifact store holds what serving a version reads; `lost` names what it does not hold whole."""
    if not lost:
        return RuleResult("files", True, "the artifact store holds every file that serving needs")
    return RuleResult("files", False, f"{told_of_lost(lost)}, then release the version by hand")


def told_of_lost(lost: Sequence[str]) -> str:
    """What is said of files that the artifact store does not hold whole."""
    return f"the artifact store lacks {', '.join(lost)}, or holds other bytes there; restore them from a copy"


def outcome_of(rules: Sequence[RuleResult]) -> Outcome:
    """Allowed only if every rule was kept."""
    return Outcome.ALLOWED if all(rule.passed for rule in rules) else Outcome.REFUSED


def _sound(
    prefix: str, policy: ReleasePolicy, rule: SuiteRule, record: EvidenceRecord, now: datetime
) -> list[RuleResult]:
    """Whether the evidence is by the right suite, large enough, sure enough, and fresh."""
    rules = [_enough_items(prefix, policy, record.evidence), *_sure_enough(prefix, policy, record.evidence)]
    if rule.suite_sha256:
        rules.append(_same_suite(prefix, rule, record.evidence))
    if policy.max_evidence_age_s:
        age_s = (now - record.create_time).total_seconds()
        fresh = age_s <= policy.max_evidence_age_s
        words = f"the evidence is {age_s:.0f} s old, at most {policy.max_evidence_age_s:.0f} s are allowed"
        rules.append(RuleResult(f"{prefix}age", fresh, words if fresh else f"{words}; evaluate again"))
    return rules


def _same_version(prefix: str, evidence: Evidence, manifest_sha256: str) -> RuleResult:
    same = evidence.candidate_manifest_sha256 == manifest_sha256
    words = "what was measured is what would be released" if same else "the evidence is for other files"
    return RuleResult(f"{prefix}evidence", same, f"{words} (manifest {evidence.candidate_manifest_sha256[:12]})")


def _same_units(prefix: str, evidence: Evidence, wanted: WantedUnits) -> list[RuleResult]:
    """Whether both were asked with what would serve, and serves; nothing is said where there is no unit at all."""
    rule = f"{prefix}unit"
    if wanted.candidate is None:
        return [RuleResult(rule, False, wanted.problem)]
    before = wanted.baseline.sha256 if wanted.baseline is not None else evidence.baseline_unit_sha256
    if not any((wanted.candidate.sha256, evidence.candidate_unit_sha256, before, evidence.baseline_unit_sha256)):
        return []
    if evidence.candidate_unit_sha256 != wanted.candidate.sha256:
        words = "the version was measured with another prompt, context, guard or sampling than would go live"
        return [RuleResult(rule, False, f"{words}; evaluate again")]
    if evidence.baseline_unit_sha256 != before:
        words = f"{evidence.baseline} was measured with another prompt, context, guard or sampling than serves"
        return [RuleResult(rule, False, f"{words}; evaluate again")]
    named = wanted.candidate.prompt_version or "no prompt"
    if wanted.candidate.guard is not None:
        named += f", {wanted.candidate.guard.guard_policy_version}"
    return [RuleResult(rule, True, f"measured with what would go live ({named}, unit {wanted.candidate.sha256[:12]})")]


def _right_baseline(prefix: str, rule: SuiteRule, evidence: Evidence, wanted: WantedBaselines) -> RuleResult:
    right = evidence.baseline == wanted.of(rule)
    if rule.comparison is Comparison.PARENT:
        made_from = f"but it was made from {wanted.parent or 'nothing'}"
        words = "which it was made from" if right else f"{made_from}; give the suite COMPARISON_PARENT, evaluate again"
    else:
        words = "which serves now" if right else f"but {wanted.champion} serves now; evaluate again"
        if prefix and not right and evidence.baseline == wanted.parent:
            words += ", or have an admin give the policy's rule COMPARISON_PARENT, if it is for what tuning may cost"
    return RuleResult(f"{prefix}baseline", right, f"compared with {evidence.baseline or 'nothing'}, {words}")


def _same_suite(prefix: str, rule: SuiteRule, evidence: Evidence) -> RuleResult:
    same = evidence.suite_sha256 == rule.suite_sha256
    pinned = rule.suite_sha256[:12]
    words = f"{rule.evaluation_suite} said what the policy pins ({pinned})"
    if not same:
        said = evidence.suite_sha256[:12] or "not known"
        words = (
            f"{rule.evaluation_suite} said something else ({said}) than the policy pins ({pinned}); put the suite back"
            " and evaluate again, or have an admin pin what it says now"
        )
    return RuleResult(f"{prefix}suite", same, words)


def _sure_enough(prefix: str, policy: ReleasePolicy, evidence: Evidence) -> list[RuleResult]:
    """Whether all intervals are wide enough; nothing is said where there are none."""
    parts = [part.difference for result in evidence.results for part in (result, *result.slices)]
    levels = sorted({part.confidence_level for part in parts if part is not None})
    if not levels:
        return []
    # Written so that NaN never passes.
    sure = all(level >= policy.min_confidence_level for level in levels)
    words = f"intervals at confidence level {levels[0]:g}, at least {policy.min_confidence_level:g} needed"
    words += "" if sure else "; raise the suite's confidence_level and evaluate again"
    return [RuleResult(f"{prefix}confidence", sure, words)]


def _enough_items(prefix: str, policy: ReleasePolicy, evidence: Evidence) -> RuleResult:
    enough = evidence.items >= policy.min_items
    words = f"{evidence.items} items measured, at least {policy.min_items} needed"
    return RuleResult(f"{prefix}items", enough, words)


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


def _primary(policy: ReleasePolicy, results: Sequence[ScorerResult]) -> list[RuleResult]:
    scorer = policy.primary_scorer
    rules = [_difference_above(f"primary:{scorer}", scorer, policy.min_gain, results)]
    if policy.max_adjusted_p:
        result = _result_of(scorer, results)
        if result is None or not result.test:
            rules.append(RuleResult(f"significance:{scorer}", False, f"{scorer} was not tested against a baseline"))
        else:
            # Written so that NaN never passes.
            passed = result.adjusted_p_value <= policy.max_adjusted_p
            words = f"{result.test} gives p = {result.adjusted_p_value:.3g} corrected for all scorers (Holm)"
            relation = "at most" if passed else "not at most"
            rules.append(RuleResult(f"significance:{scorer}", passed, f"{words}, {relation} {policy.max_adjusted_p:g}"))
    return rules


def _guard(prefix: str, guard: GuardRule, results: Sequence[ScorerResult]) -> RuleResult:
    return _difference_above(f"{prefix}guard:{guard.scorer}", guard.scorer, -guard.margin, results)


def _slice(prefix: str, rule: SliceRule, results: Sequence[ScorerResult]) -> RuleResult:
    name = f"{prefix}slice:{rule.scorer}@{rule.slice}"
    result = _result_of(rule.scorer, results)
    found = next((s for s in result.slices if s.slice == rule.slice), None) if result is not None else None
    if result is None or found is None:
        return RuleResult(name, False, f"{rule.scorer} was not measured on {rule.slice}")
    gain = gain_of(found.difference, lower_is_better=result.lower_is_better)
    if found.too_few_items or gain is None or found.baseline is None or found.candidate is None:
        return RuleResult(name, False, f"{rule.slice} has {found.items} items, too few to say")
    return _above(name, f"{rule.scorer} on {rule.slice} ({found.items} items)", found.baseline, found.candidate, gain,
                  bound=-rule.margin, lower_is_better=result.lower_is_better)  # fmt: skip


def _difference_above(rule: str, scorer: str, bound: float, results: Sequence[ScorerResult]) -> RuleResult:
    result = _result_of(scorer, results)
    gain = result.gain if result is not None else None
    if result is None or gain is None or result.baseline is None:
        return RuleResult(rule, False, f"{scorer} was not compared with a baseline")
    return _above(rule, scorer, result.baseline, result.candidate, gain, bound=bound,
                  lower_is_better=result.lower_is_better)  # fmt: skip


def _above(
    rule: str, what: str, before: Estimate, after: Estimate, gain: Estimate, *, bound: float, lower_is_better: bool
) -> RuleResult:
    # Written so that NaN never passes.
    passed = gain.low > bound
    kind = "gain (less is better)" if lower_is_better else "difference"
    return RuleResult(
        rule,
        passed,
        f"{what} {before.value:.4f} -> {after.value:.4f}, {kind} {gain.value:+.4f}"
        f" [{gain.low:+.4f}, {gain.high:+.4f}] at {gain.confidence_level:.0%};"
        f" its lower end is {'above' if passed else 'not above'} {bound:+g}",
    )


def _result_of(scorer: str, results: Sequence[ScorerResult]) -> ScorerResult | None:
    return next((result for result in results if result.scorer == scorer), None)
