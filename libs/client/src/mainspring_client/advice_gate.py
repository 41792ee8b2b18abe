"""What advice asks of a rung: the rules of the model's release policy, as far as a few answers can tell.

A rule is applied as the gate applies it, with the base in the place of what serves: the lower end of a difference's
interval lies above a bound. What cannot be told from answers to some questions is named, so that nobody takes advice
for a release: other suites, people's approvals, corrected p values.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mainspring_svckit.errors import PreconditionFailed

_RESAMPLES, _LEVEL = 2000, 0.95
_MIN_SLICE_ITEMS = 30
_PAIRED = {"judge_preference": "it compares with what serves, not with a rung"}
_WITH_PASSAGES = dict.fromkeys(
    ("faithfulness", "context_precision", "context_recall"), "advice asks without passages of a collection"
)
_NOT_TOLD = _PAIRED | _WITH_PASSAGES
"""Scorers whose figures say nothing about rungs, and why."""


@dataclass(frozen=True)
class Gain:
    """A mean difference to the base over the same questions, with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Margin:
    """A scorer that may not fall by more than a margin: on all questions, or on those of a slice."""

    scorer: str
    margin: float
    part: str = ""

    @property
    def rule(self) -> str:
        """Its name, as the gate has it."""
        return f"slice:{self.scorer}@{self.part}" if self.part else f"guard:{self.scorer}"


@dataclass(frozen=True)
class Answers:
    """What a rung's answers came to.

    Attributes:
        scores: By scorer and question, more being better.
        parts: Questions by the slice that they are in.
        mean_kl_nats: Divergence of the engine from the reference, where it was measured.
    """

    scores: Mapping[str, Mapping[str, float]]
    parts: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    mean_kl_nats: float | None = None


@dataclass(frozen=True)
class Check:
    """One rule: kept, broken, or None where nobody can say; and why, in words."""

    rule: str
    kept: bool | None
    words: str


@dataclass(frozen=True)
class Gate:
    """The rules.

    Attributes:
        scorer: What must improve.
        min_gain: By more than this; negative where it need not be worse by more.
        policy: Whose rules these are, or empty.
        margins: What may not fall.
        min_items: Fewest questions that would count as evidence.
        min_slice_items: Questions of a slice below which it says nothing.
        max_mean_kl_nats: Largest divergence of the engine from the reference; None for any.
        level: Confidence level of all intervals.
        unmeasured: Rules that no rung's answers can tell, in words.
    """

    scorer: str
    min_gain: float = 0.0
    policy: str = ""
    margins: tuple[Margin, ...] = ()
    min_items: int = 0
    min_slice_items: int = _MIN_SLICE_ITEMS
    max_mean_kl_nats: float | None = None
    level: float = _LEVEL
    unmeasured: tuple[str, ...] = ()

    @property
    def scorers(self) -> list[str]:
        """Scorers that rungs are measured by, what must improve first."""
        named = [self.scorer, *(margin.scorer for margin in self.margins)]
        return [scorer for scorer in dict.fromkeys(named) if scorer not in _NOT_TOLD or scorer == self.scorer]


def gate_of(policy: Any, suite: Any) -> Gate:
    """The rules of a release policy (`registry.v1.ReleasePolicy`) and of its suite, as far as answers can tell."""
    margins = [Margin(rule.scorer, rule.margin) for rule in policy.guards]
    margins += [Margin(rule.scorer, rule.margin, rule.slice) for rule in policy.slices]
    left_out = [f"{margin.rule}: {_NOT_TOLD[margin.scorer]}" for margin in margins if margin.scorer in _NOT_TOLD]
    left_out += [
        f"suite {rule.evaluation_suite.rpartition('/')[2]}: it is another one" for rule in policy.further_suites
    ]
    if policy.max_adjusted_p_value:
        left_out.append(f"significance:{policy.primary_scorer}: advice tells intervals, no corrected p values")
    if policy.unit.ListFields():
        left_out.append("unit: rungs are asked without the prompt, passages and guard that releases name")
    if policy.approvals:
        left_out.append("approvals: people give them when there is a version")
    return Gate(
        scorer=policy.primary_scorer,
        min_gain=policy.min_gain,
        policy=policy.name,
        margins=tuple(margin for margin in margins if margin.scorer not in _NOT_TOLD),
        min_items=policy.min_items,
        min_slice_items=suite.min_slice_items or _MIN_SLICE_ITEMS,
        max_mean_kl_nats=policy.max_mean_kl_nats or None,
        level=policy.min_confidence_level or _LEVEL,
        unmeasured=tuple(left_out),
    )


def checked(gate: Gate, base: Answers, rung: Answers) -> list[Check]:
    """Every rule, applied to a rung; the base's own answers may be the rung's, which then gains nothing.

    Raises:
        PreconditionFailed: ADVICE_FAILED, what must improve was not told of any question that both answered.
    """
    checks = [_above(f"primary:{gate.scorer}", gain_over(_of(base, gate), _of(rung, gate), gate.level), gate.min_gain)]
    asked = len(_of(base, gate).keys() & _of(rung, gate).keys())
    if asked < gate.min_items:
        words = f"{asked} questions were measured, and {gate.min_items} are needed; ask for more items"
        checks.append(Check("items", None, words))
    checks += [_margin(gate, margin, base, rung) for margin in gate.margins]
    if gate.max_mean_kl_nats is not None:
        checks.append(_fidelity(gate.max_mean_kl_nats, rung.mean_kl_nats))
    return checks


def gain_over(base: Mapping[str, float], other: Mapping[str, float], level: float = _LEVEL) -> Gain:
    """The mean difference over the questions that both answered, with a percentile bootstrap interval (seed 0)."""
    differences = [other[question] - base[question] for question in sorted(base.keys() & other.keys())]
    if not differences:
        raise PreconditionFailed("ADVICE_FAILED", "the rungs answered no question in common; ask for more items")
    draw, count = random.Random(0), len(differences)  # noqa: S311 - statistics.
    means = sorted(sum(draw.choices(differences, k=count)) / count for _ in range(_RESAMPLES))
    tail = round((1 - level) / 2 * _RESAMPLES)
    return Gain(sum(differences) / count, means[tail], means[-tail - 1])


def unmeasured(gate: Gate, checks: Sequence[Check]) -> list[str]:
    """Every rule of which somebody could not say whether it is kept, in words, each once."""
    return list(dict.fromkeys([*gate.unmeasured, *(f"{c.rule}: {c.words}" for c in checks if c.kept is None)]))


def _of(answers: Answers, gate: Gate) -> Mapping[str, float]:
    return answers.scores.get(gate.scorer, {})


def _margin(gate: Gate, margin: Margin, base: Answers, rung: Answers) -> Check:
    before, after = (answers.scores.get(margin.scorer, {}) for answers in (base, rung))
    common = before.keys() & after.keys()
    if not common:
        return Check(margin.rule, None, f"{margin.scorer} gives no score of single answers")
    if margin.part:
        common &= base.parts.get(margin.part, frozenset())
        if len(common) < gate.min_slice_items:
            words = f"{len(common)} of the questions are in it, and {gate.min_slice_items} are needed; ask for more"
            return Check(margin.rule, None, f"{words} items")
    before, after = ({question: side[question] for question in common} for side in (before, after))
    return _above(margin.rule, gain_over(before, after, gate.level), -margin.margin)


def _fidelity(most: float, measured: float | None) -> Check:
    if measured is None:
        return Check("fidelity", None, "it is measured of tuned versions only")
    words = f"the engine diverges by {measured:.4f} nats from the reference, and {most:g} are allowed"
    return Check("fidelity", measured <= most, words)


def _above(rule: str, gain: Gain, bound: float) -> Check:
    # Written so that NaN never passes.
    kept = gain.low > bound
    words = (
        f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], its lower end {'' if kept else 'not '}above {bound:+g}"
    )
    return Check(rule, kept, words)
