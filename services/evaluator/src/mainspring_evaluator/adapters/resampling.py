"""Intervals and tests by resampling items (Efron 1979; paired, Koehn 2004) and by exchanging answers between systems
(approximate randomisation, Noreen 1989; Riezler and Maxwell 2005).

Scores of the whole are computed again for each resample from the sums of the items' statistics, so they are exact and
quick. numpy is loaded by the thread that scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mainspring_evaluator.adapters.scorers.base import Scorer
from mainspring_evaluator.domain.items import Sample
from mainspring_evaluator.domain.power import mcnemar, minimum_detectable_effect
from mainspring_svckit.values import Estimate

SEED = 2004
_BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class Table:
    """What one scorer says of the answers of one or two systems to the same items.

    Attributes:
        scorer: It.
        systems: For the candidate, and the baseline when there is one: a row for each item. The last column is 1 where
            the scorer can be applied to the item, and the rest of the row 0 where it cannot.
    """

    scorer: Scorer
    systems: tuple[Any, ...]

    def of(self, rows: Any) -> Table:
        """The table of some of the items."""
        return Table(self.scorer, tuple(system[rows] for system in self.systems))

    @property
    def items(self) -> int:
        """Items that the scorer can be applied to."""
        return int(self.systems[0][:, -1].sum())


@dataclass(frozen=True)
class Estimates:
    """What resampling says of one table."""

    candidate: Estimate
    baseline: Estimate | None = None
    difference: Estimate | None = None
    p_value: float = 0.0
    standard_error: float = 0.0


class Means:
    """Stands for a scorer where only the items' scores are left, whose mean is the score of the whole."""

    lower_is_better = False
    binary = False
    averages = True
    signature = "mean"

    def statistics(self, sample: Sample) -> Sequence[float] | None:
        raise NotImplementedError("the scores are there already")

    def item_score(self, statistics: Sequence[float]) -> float:
        return statistics[0]

    def corpus_score(self, sums: Sequence[float], items: float) -> float:
        return sums[0] / items


def estimates(tables: Sequence[Table], *, resamples: int, confidence_level: float) -> list[Estimates]:
    """Scores with percentile intervals; differences are paired, and the same items are drawn for all tables."""
    blocks = [np.asarray(system, dtype=float) for table in tables for system in table.systems]
    edges = np.cumsum([0, *(block.shape[1] for block in blocks)])
    sums = np.concatenate(list(_resampled_sums(np.hstack(blocks), resamples)))
    of_blocks = iter(zip(blocks, [sums[:, start:end] for start, end in pairwise(edges)], strict=True))
    found: list[Estimates] = []
    for table in tables:
        scored = [
            (float(scores(table.scorer, block.sum(axis=0)[np.newaxis])[0]), scores(table.scorer, resampled))
            for block, resampled in (next(of_blocks) for _ in table.systems)
        ]
        (value, of_resamples), *others = scored
        own = _estimate(value, of_resamples, confidence_level)
        if not others:
            found.append(Estimates(own, standard_error=float(of_resamples.std(ddof=1))))
            continue
        ((other, of_other),) = others
        differences = of_resamples - of_other
        found.append(
            Estimates(
                own,
                _estimate(other, of_other, confidence_level),
                _estimate(value - other, differences, confidence_level),
                _p_value(differences, items=len(table.systems[0])),
                float(differences.std(ddof=1)),
            )
        )
    return found


def _estimate(of_all: float, of_resamples: Any, confidence_level: float) -> Estimate:
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(of_resamples, [tail, 1 - tail])
    return Estimate(of_all, float(low), float(high), confidence_level)


def paired_test(table: Table, *, rounds: int) -> tuple[str, float]:
    """Name and two-sided p value of the test for "no difference" between the two systems of a table."""
    own, other = table.systems
    if table.scorer.binary:
        right, wrong = own[:, 0] > other[:, 0], own[:, 0] < other[:, 0]
        return "mcnemar", mcnemar(int(right.sum()), int(wrong.sum()))
    return "approximate_randomisation", _randomisation(table.scorer, own, other, rounds)


def permutation_test(first: Sequence[float], second: Sequence[float], *, rounds: int = 10_000) -> float:
    """Two-sided p value for "both samples have the same mean" by random divisions of all values (Fisher 1935)."""
    values = np.concatenate([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    count, total = len(first), float(values.sum())

    def distance(sum_of_first: Any) -> Any:
        return np.abs(sum_of_first / count - (total - sum_of_first) / (len(values) - count))

    seen, random, as_large = distance(float(np.sum(first))), np.random.default_rng(SEED + 2), 0
    for _ in range(rounds):
        as_large += bool(distance(random.permutation(values)[:count].sum()) >= seen - 1e-12)
    return (1 + as_large) / (1 + rounds)


def detectable_effect(standard_error: float, confidence_level: float) -> float:
    """Smallest difference that is found with a probability of 0.8."""
    return minimum_detectable_effect(standard_error, confidence_level=confidence_level)


def scores(scorer: Scorer, sums: Any) -> Any:
    """Scores of the whole for rows of sums, whose last column counts items; rows without items score 0."""
    counts = sums[:, -1]
    if getattr(scorer, "averages", False):
        return np.divide(sums[:, 0], counts, out=np.zeros(len(sums)), where=counts > 0)
    return np.array(
        [scorer.corpus_score(row[:-1], row[-1]) if row[-1] > 0 else 0.0 for row in sums.tolist()], dtype=float
    )


def _randomisation(scorer: Scorer, own: Any, other: Any, rounds: int) -> float:
    """Share of random exchanges of answers between the systems that make a difference at least as large as there is."""
    own_sum, other_sum = own.sum(axis=0), other.sum(axis=0)
    seen = abs(float((scores(scorer, own_sum[np.newaxis]) - scores(scorer, other_sum[np.newaxis]))[0]))
    exchange, items = other - own, len(own)
    random = np.random.default_rng(SEED + 1)
    batch, as_large = max(1, _BATCH_BYTES // (8 * items)), 0
    for start in range(0, rounds, batch):
        size = min(batch, rounds - start)
        moved = random.integers(0, 2, (size, items), dtype=np.int8).astype(float) @ exchange
        moved[:, -1] = 0  # Both systems have the same items.
        differences = scores(scorer, own_sum + moved) - scores(scorer, other_sum - moved)
        as_large += int((np.abs(differences) >= seen - 1e-12).sum())
    return (1 + as_large) / (1 + rounds)


def _resampled_sums(statistics: Any, resamples: int) -> Iterator[Any]:
    """Sums of the items' statistics for each resample, some resamples at a time; the same items for all columns, which
    is what pairs the systems.
    """
    items = len(statistics)
    random = np.random.default_rng(SEED)
    batch = max(1, _BATCH_BYTES // (8 * items))
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        weights = np.empty((size, items))
        for row in weights:
            row[:] = np.bincount(random.integers(0, items, items), minlength=items)
        yield weights @ statistics


def _p_value(differences: Any, *, items: int) -> float:
    """Two-sided: twice the share of resamples on the smaller side of "no difference", which belongs to both sides.

    One is added to both counts, since a resampling test can never prove a probability of 0 (Davison and Hinkley 1997,
    section 4.2). Of few items all resamples are on one side easily, and it is no smaller than what exchanging the
    systems of each item could show: all items agree by chance once in 2 ** (items - 1).
    """
    smaller = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, max(2 * (1 + smaller) / (1 + len(differences)), 2.0 ** (1 - items)))
