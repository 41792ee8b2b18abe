"""Intervals and significance by resampling items (Efron 1979; for differences paired, Koehn 2004).

Scores of the whole are computed again for each resample from the sums of the items' statistics, so they are exact and
quick. numpy is loaded by the thread that scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mainspring_evaluator.adapters.scorers import Scorer
from mainspring_svckit.values import Estimate, ScorerResult

SEED = 2004
_BATCH_BYTES = 32 << 20

Statistics = Sequence[Sequence[float]]
"""One row for each item."""


def results_of(
    scorers: Sequence[tuple[str, str, Scorer]],
    candidate: Sequence[Statistics],
    baseline: Sequence[Statistics] | None,
    *,
    resamples: int,
    confidence_level: float,
) -> list[ScorerResult]:
    """What each scorer says of the whole.

    Args:
        scorers: Name, signature and scorer.
        candidate: The candidate's statistics, by scorer.
        baseline: The baseline's, over the same items; None without one.
        resamples: How many.
        confidence_level: Of the percentile intervals.
    """
    systems = [candidate] if baseline is None else [candidate, baseline]
    blocks = [np.asarray(statistics, dtype=float) for system in systems for statistics in system]
    items, edges = len(blocks[0]), np.cumsum([0, *(block.shape[1] for block in blocks)])
    values = _scores(scorers, [block.sum(axis=0)[np.newaxis] for block in blocks], items)
    sums = np.concatenate(list(_resampled_sums(np.hstack(blocks), resamples)))
    resampled = _scores(scorers, [sums[:, start:end] for start, end in pairwise(edges)], items)
    found: list[ScorerResult] = []
    for index, (name, signature, _) in enumerate(scorers):
        other = index + len(scorers)

        def estimate(of_all: Any, of_resamples: Any) -> Estimate:
            tail = (1 - confidence_level) / 2
            low, high = np.quantile(of_resamples, [tail, 1 - tail])
            return Estimate(float(of_all[0]), float(low), float(high), confidence_level)

        signature = f"{signature}|bs:{resamples}|seed:{SEED}"
        own = estimate(values[index], resampled[index])
        if baseline is None:
            found.append(ScorerResult(name, signature, own))
            continue
        differences = resampled[index] - resampled[other]
        found.append(
            ScorerResult(
                name,
                signature,
                own,
                estimate(values[other], resampled[other]),
                estimate(values[index] - values[other], differences),
                _p_value(differences),
            )
        )
    return found


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


def _scores(scorers: Sequence[tuple[str, str, Scorer]], sums: Sequence[Any], items: int) -> list[Any]:
    """Scores by system and scorer, each an array over the rows of `sums`."""
    return [
        np.array([scorers[index % len(scorers)][2].corpus_score(row, items) for row in block.tolist()])
        for index, block in enumerate(sums)
    ]


def _p_value(differences: Any) -> float:
    """Two-sided: twice the share of resamples on the smaller side of "no difference", which belongs to both sides.

    One is added to both counts, since a resampling test can never prove a probability of 0 (Davison and Hinkley 1997,
    section 4.2).
    """
    smaller = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (1 + smaller) / (1 + len(differences)))
