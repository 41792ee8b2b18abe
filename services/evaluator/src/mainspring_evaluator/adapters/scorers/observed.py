"""Scorers of what others said of an answer: an embedding model, judges, the engine. The asking is done elsewhere
(`application/observing.py`); here it only counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mainspring_evaluator.adapters.scorers.base import MeanScorer, Setup
from mainspring_evaluator.adapters.scorers.rules import AccuracyScorer
from mainspring_evaluator.domain.items import Sample

_BINS = 10
_MAX_NATS = 700.0
"""Beyond this no float holds the perplexity."""


class ObservedScorer(MeanScorer):
    """Mean of the figures of the scorer's name."""

    def score(self, sample: Sample) -> float | None:
        return sample.observed.get(self.setup.name)


class ChoiceScorer(ObservedScorer):
    """Share of items whose most probable choice is right."""

    binary = True


class CalibrationErrorScorer:
    """Expected calibration error (Naeini et al. 2015) of the first token: how far its probability is from the share of
    answers that are right (as `accuracy` counts), over 10 bins; less is better.
    """

    lower_is_better = True
    binary = False

    def __init__(self, setup: Setup) -> None:
        self._accuracy = AccuracyScorer(setup)

    @property
    def signature(self) -> str:
        return f"calibration_error|bins:{_BINS}|of:first_token|version:1"

    def statistics(self, sample: Sample) -> Sequence[float] | None:
        """For each bin: the probabilities' sum and the right answers."""
        confidence = sample.observed.get("calibration_error")
        right = self._accuracy.score(sample)
        if confidence is None or right is None:
            return None
        counts = [0.0] * (2 * _BINS)
        place = 2 * min(int(confidence * _BINS), _BINS - 1)
        counts[place], counts[place + 1] = confidence, right
        return counts

    def item_score(self, statistics: Sequence[float]) -> float:
        return self.corpus_score(statistics, 1)

    def corpus_score(self, sums: Sequence[float], items: float) -> float:
        return sum(abs(sums[place] - sums[place + 1]) for place in range(0, 2 * _BINS, 2)) / items


class PerplexityScorer:
    """Perplexity of the references, all tokens together: exp of the mean surprise of a token, after the question and in
    the model's own tokens. So versions of one tokenizer compare, others do not. Less is better.
    """

    lower_is_better = True
    binary = False

    def __init__(self, setup: Setup) -> None:
        del setup

    @property
    def signature(self) -> str:
        return "perplexity|of:references|per:token|version:1"

    def statistics(self, sample: Sample) -> Sequence[float] | None:
        """Surprise in nats, and tokens."""
        tokens = sample.observed.get("perplexity_tokens")
        return [sample.observed["perplexity"], tokens] if tokens else None

    def item_score(self, statistics: Sequence[float]) -> float:
        return self.corpus_score(statistics, 1)

    def corpus_score(self, sums: Sequence[float], items: float) -> float:
        del items
        return math.exp(min(sums[0] / sums[1], _MAX_NATS))
