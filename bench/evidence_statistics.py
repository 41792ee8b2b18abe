"""Whether the gate keeps its promise: how often it lets an equal model through, and how often it finds a better one.

The code that decides is the very code that runs: the evaluator's scorers, intervals, tests and sample sizes over
simulated answers, and the registry's rules over what they say. No model is in it, so it needs no stack. Answers are
made of words, so that BLEU of the whole is among what is simulated.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

from bench.figures import Bar, Figure, Result
from mainspring_evaluator.adapters.scoring import ThreadScoring
from mainspring_evaluator.domain.items import Answer, Item, Sample
from mainspring_evaluator.domain.power import items_needed, minimum_detectable_effect
from mainspring_evaluator.domain.suites import EvaluationSuite
from mainspring_registry.domain.gate import Evidence, EvidenceRecord, judge
from mainspring_registry.domain.policies import ReleasePolicy
from mainspring_svckit.values import Fidelity, Message, ScorerResult

PAIRS, POWER_PAIRS, ITEMS, PILOT_ITEMS, PILOTS = 2_000, 1_000, 60, 40_000, 12
ALPHA = 0.05
"""What the gate states at intervals of 95 %: at most this share of equal models passes the primary rule. Only the lower
end of the two-sided interval decides, so half of it is expected."""
POWER = 0.8
"""What a sample size states for the difference that it was reckoned for."""
SCORERS = ("bleu", "token_f1", "exact_match")
T = TypeVar("T")
_SUITE, _MODEL = "projects/p/evaluationSuites/s", "projects/p/models/m"
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_WORDS = tuple(f"word{number}" for number in range(400))
_EQUAL, _BETTER = 0.40, 0.48
"""Share of items that a system gets right to the letter; of others it spoils a third of the words."""


@dataclass(frozen=True)
class Verdict:
    """What the gate and the corrected test said of one pair, by scorer."""

    passed: dict[str, bool]
    significant: dict[str, bool]


async def measure(pairs: int = PAIRS, power_pairs: int = POWER_PAIRS, pilot_items: int = PILOT_ITEMS) -> Result:
    """Simulates pairs of equal systems, and pairs that differ by what sample sizes were reckoned for."""
    with processors() as pool:
        equal = await _simulate(pool, pairs, ITEMS, _EQUAL, SCORERS)
        powers = await power(pool, power_pairs, pilot_items)
    result = Result("evidence-statistics")
    for name in SCORERS:
        share = sum(verdict.passed[name] for verdict in equal) / pairs
        low, high = interval(share, pairs)
        note = f"{share:.4f} of {pairs:,} equal pairs passed, 95 % interval {low:.4f} to {high:.4f}"
        result.figures.append(Figure(f"false promotions, {name}: upper end", "share", high, (), Bar(ALPHA), note))
    family = sum(any(verdict.significant.values()) for verdict in equal) / pairs
    result.figures.append(Figure("any scorer called different after Holm, though equal", "share", family))
    result.figures += powers
    return result


def processors() -> ProcessPoolExecutor:
    """A process for each processor; spawned, since a fork of a process with threads may never wake up."""
    return ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))


async def power(pool: Executor, pairs: int, pilot_items: int) -> list[Figure]:
    """How often a better system passes with the items that its effect is said to need.

    Both the effect and how much an item's deviates must be the true ones: a pilot whose luck makes the one 5 % larger
    asks for a tenth too few items. They are the means of many pilots.
    """
    pilots = await _each(pool, partial(_pilot, items=pilot_items), range(PILOTS))
    figures: list[Figure] = []
    for name in SCORERS:
        effect, deviation = (sum(pilot[name][figure] for pilot in pilots) / PILOTS for figure in (0, 1))
        needed = items_needed(deviation, effect, confidence_level=0.95, power=POWER)
        better = await _simulate(pool, pairs, needed, _BETTER, (name,))
        share = sum(verdict.passed[name] for verdict in better) / pairs
        low, high = interval(share, pairs)
        note = f"{needed} items for {effect:.3g}; {pairs:,} pairs, 95 %: {low:.3f} to {high:.3f}"
        figures.append(Figure(f"power, {name}", "share", share, (), Bar(POWER, at_least=True), note))
    return figures


def _pilot(number: int, *, items: int) -> dict[str, tuple[float, float]]:
    """The difference of the better system and how much one item's deviates, by scorer."""
    found: dict[str, tuple[float, float]] = {}
    for name, result in _results(-1 - number, items, _BETTER, SCORERS)[0].items():
        assert result.difference is not None
        error = result.minimum_detectable_effect / minimum_detectable_effect(1.0, confidence_level=0.95)
        found[name] = result.difference.value, error * math.sqrt(items)
    return found


def interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


async def _simulate(pool: Executor, pairs: int, items: int, candidate: float, scorers: Sequence[str]) -> list[Verdict]:
    one = partial(_verdict, items=items, candidate=candidate, scorers=scorers)
    return await _each(pool, one, range(1, pairs + 1), chunk=20)


async def _each(pool: Executor, do: Callable[[int], T], numbers: Sequence[int], chunk: int = 1) -> list[T]:
    return await asyncio.to_thread(lambda: list(pool.map(do, numbers, chunksize=chunk)))


def _verdict(seed: int, *, items: int, candidate: float, scorers: Sequence[str]) -> Verdict:
    results, ordered = _results(seed, items, candidate, scorers)
    passed = {name: _passes(name, ordered, items) for name in scorers}
    return Verdict(passed, {name: results[name].adjusted_p_value < ALPHA for name in scorers})


def _results(
    seed: int, items: int, candidate: float, scorers: Sequence[str]
) -> tuple[dict[str, ScorerResult], tuple[ScorerResult, ...]]:
    """What the evaluator measures of a candidate against a baseline that gets `_EQUAL` of the items right."""
    rng = random.Random(seed)
    own, other = list[Sample](), list[Sample]()
    for number in range(items):
        words = rng.choices(_WORDS, k=rng.randint(8, 16))
        item = Item((Message("user", str(number)),), (" ".join(words),))
        # What is hard for one system is hard for the other: half of what decides is the item's own.
        hardness = rng.random()
        for samples, share in ((own, candidate), (other, _EQUAL)):
            right = (hardness if rng.random() < 0.5 else rng.random()) < share
            said = words if right else [word if rng.random() > 1 / 3 else rng.choice(_WORDS) for word in words]
            samples.append(Sample(item, Answer(" ".join(said), 0.1)))
    suite = EvaluationSuite(_SUITE, _MODEL, tuple(scorers))
    measured = asyncio.run(ThreadScoring().measure(suite, own, other))
    return {result.scorer: result for result in measured.results}, measured.results


def _passes(scorer: str, results: tuple[ScorerResult, ...], items: int) -> bool:
    """Whether the gate lets the candidate through on this scorer."""
    policy = ReleasePolicy("projects/p/releasePolicies/r", _MODEL, _SUITE, scorer)
    evidence = Evidence("projects/p/evaluationRuns/e", "sha", "base", results, items, Fidelity(0.0, 1.0, 1))
    record = EvidenceRecord(evidence.evaluation_run, "", _SUITE, evidence, "", _NOW)
    rules = judge(policy, {_SUITE: record}, manifest_sha256="sha", wanted_baseline="base", now=_NOW)
    return all(rule.passed for rule in rules)
