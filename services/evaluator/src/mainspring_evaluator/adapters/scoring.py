"""`Scoring` in a thread, with libraries that are loaded when they are first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mainspring_evaluator.application.ports import Measured
from mainspring_evaluator.domain.items import Item
from mainspring_evaluator.domain.suites import EvaluationSuite
from mainspring_svckit.errors import PreconditionFailed

if TYPE_CHECKING:
    from mainspring_evaluator.adapters.scorers import Scorer

NAMES = ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l")
"""What there is, known without loading it; a test holds it equal to `scorers.SCORERS`."""


class ThreadScoring:
    """`Scoring` by the table of scorers."""

    @property
    def names(self) -> Sequence[str]:
        return NAMES

    async def measure(
        self, suite: EvaluationSuite, items: Sequence[Item], candidate: Sequence[str], baseline: Sequence[str] | None
    ) -> Measured:
        unknown = [name for name in suite.scorers if name not in NAMES]
        if unknown:
            message = f"there is no scorer {unknown[0]!r}; there are {', '.join(NAMES)}"
            raise PreconditionFailed("UNKNOWN_SCORER", message, {"scorer": unknown[0]})
        return await asyncio.to_thread(_measure, suite, items, candidate, baseline)


def _measure(
    suite: EvaluationSuite, items: Sequence[Item], candidate: Sequence[str], baseline: Sequence[str] | None
) -> Measured:
    from mainspring_evaluator.adapters.bootstrap import results_of
    from mainspring_evaluator.adapters.scorers import SCORERS

    references = [item.references for item in items]
    scorers = {name: SCORERS[name]() for name in suite.scorers}
    own = [_statistics(scorer, candidate, references) for scorer in scorers.values()]
    other = None
    if baseline is not None:
        other = [_statistics(scorer, baseline, references) for scorer in scorers.values()]
    results = results_of(
        [(name, scorer.signature(references), scorer) for name, scorer in scorers.items()],
        own,
        other,
        resamples=suite.bootstrap_resamples,
        confidence_level=suite.confidence_level,
    )
    return Measured(tuple(results), _item_scores(scorers, own), _item_scores(scorers, other or []))


def _statistics(scorer: Scorer, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[float]]:
    return [scorer.statistics(answer, of_item) for answer, of_item in zip(answers, references, strict=True)]


def _item_scores(
    scorers: Mapping[str, Scorer], statistics: Sequence[list[list[float]]]
) -> tuple[Mapping[str, float], ...]:
    """Scores of each item by scorer's name; empty without statistics."""
    by_scorer = [
        [scorer.item_score(of_item) for of_item in of_items]
        for scorer, of_items in zip(scorers.values(), statistics, strict=False)
    ]
    return tuple(dict(zip(scorers, of_item, strict=True)) for of_item in zip(*by_scorer, strict=True))
