"""What a scorer is.

A scorer turns each answer into statistics that add up, and any sum of statistics into a score of the whole; that is all
that resampling needs. A plug-in is one class with these members, made with a `Setup`, and an entry point of the group
`mainspring.scorers` that names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mainspring_evaluator.domain.items import Item, Sample
from mainspring_evaluator.domain.suites import EvaluationSuite


@dataclass(frozen=True)
class Setup:
    """What a scorer is made with: its name, the suite, and all items before the first is scored."""

    name: str
    suite: EvaluationSuite
    items: Sequence[Item]

    @property
    def reference_counts(self) -> str:
        """References of an item, or `var`, as sacrebleu's signatures have it."""
        counts = {len(item.references) for item in self.items if item.references}
        return str(counts.pop()) if len(counts) == 1 else "var"


class Scorer(Protocol):
    """One way to score answers."""

    @property
    def lower_is_better(self) -> bool:
        """Whether less is better; an attribute of the class will do."""
        ...

    @property
    def binary(self) -> bool:
        """Whether an item is right or wrong, its only statistic being 1 or 0; an attribute of the class will do."""
        ...

    @property
    def signature(self) -> str:
        """Everything needed to compute it again: library, version, options."""
        ...

    def statistics(self, sample: Sample) -> Sequence[float] | None:
        """What one answer adds to the whole, always of the same length; None when it cannot be applied to the item."""
        ...

    def item_score(self, statistics: Sequence[float]) -> float:
        """The score of one answer by itself."""
        ...

    def corpus_score(self, sums: Sequence[float], items: float) -> float:
        """The score of `items` answers whose statistics add up to `sums`."""
        ...


class MeanScorer(ABC):
    """A scorer whose score of the whole is the mean over the items that it can be applied to."""

    lower_is_better = False
    binary = False
    averages = True

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @property
    def signature(self) -> str:
        return f"{self.setup.name}|mean|version:1"

    @abstractmethod
    def score(self, sample: Sample) -> float | None:
        """The score of one answer; None when it cannot be applied to the item."""

    def statistics(self, sample: Sample) -> Sequence[float] | None:
        score = self.score(sample)
        return None if score is None else [float(score)]

    def item_score(self, statistics: Sequence[float]) -> float:
        return statistics[0]

    def corpus_score(self, sums: Sequence[float], items: float) -> float:
        return sums[0] / items
