"""Scorers on well-kept libraries. Imported only by the thread that scores, since the libraries take long to load.

A scorer turns each answer into statistics that add up, and any sum of statistics into a score of the whole; that is all
that a bootstrap needs. Scores of the whole are exactly what the library's own corpus functions give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Protocol

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

References = Sequence[str]


class Scorer(Protocol):
    """One way to compare an answer with references; higher is better."""

    def signature(self, references: Sequence[References]) -> str:
        """Everything needed to compute it again: library, version, options."""
        ...

    def statistics(self, answer: str, references: References) -> list[float]:
        """What one answer adds to the whole; always of the same length."""
        ...

    def item_score(self, statistics: Sequence[float]) -> float:
        """The score of one answer by itself."""
        ...

    def corpus_score(self, sums: Sequence[float], items: int) -> float:
        """The score of `items` answers whose statistics add up to `sums`."""
        ...


class _Bleu(BLEU):
    """Opens what sacrebleu keeps for its own bootstrap; the order of the statistics is its business."""

    def segment(self, answer: str, references: References) -> list[float]:
        return list(self._extract_corpus_statistics([answer], [[reference] for reference in references])[0])

    def score_of(self, statistics: Sequence[float]) -> float:
        return float(self._compute_score_from_stats(list(statistics)).score)  # type: ignore[arg-type]


class _Chrf(CHRF):
    """As `_Bleu`."""

    def segment(self, answer: str, references: References) -> list[float]:
        return list(self._extract_corpus_statistics([answer], [[reference] for reference in references])[0])

    def score_of(self, statistics: Sequence[float]) -> float:
        return float(self._compute_score_from_stats(list(statistics)).score)  # type: ignore[arg-type]


class BleuScorer:
    """BLEU (Papineni et al. 2002) by sacrebleu, 0 to 100; of one item with effective order, as sacrebleu advises."""

    def __init__(self) -> None:
        self._corpus, self._item = _Bleu(force=True), _Bleu(force=True, effective_order=True)

    def signature(self, references: Sequence[References]) -> str:
        return _sacrebleu_signature("BLEU", self._corpus, references)

    def statistics(self, answer: str, references: References) -> list[float]:
        return self._corpus.segment(answer, references)

    def item_score(self, statistics: Sequence[float]) -> float:
        return self._item.score_of(statistics)

    def corpus_score(self, sums: Sequence[float], items: int) -> float:
        del items
        return self._corpus.score_of(sums)


class ChrfScorer:
    """chrF (Popović 2015) by sacrebleu, 0 to 100; the best reference counts."""

    def __init__(self) -> None:
        self._metric = _Chrf()

    def signature(self, references: Sequence[References]) -> str:
        return _sacrebleu_signature("chrF", self._metric, references)

    def statistics(self, answer: str, references: References) -> list[float]:
        return self._metric.segment(answer, references)

    def item_score(self, statistics: Sequence[float]) -> float:
        return self._metric.score_of(statistics)

    def corpus_score(self, sums: Sequence[float], items: int) -> float:
        del items
        return self._metric.score_of(sums)


class RougeFScorer:
    """ROUGE F-measure (Lin 2004) by rouge-score with stemming, 0 to 1: the best reference's, averaged over items."""

    def __init__(self, kind: str) -> None:
        """Takes rouge-score's name of the kind: `rouge1`, `rouge2`, `rougeL`."""
        self._kind = kind
        self._scorer = RougeScorer([kind], tokenizer=_tokenizer())

    def signature(self, references: Sequence[References]) -> str:
        refs = _reference_counts(references)
        return f"{self._kind}|nrefs:{refs}|refs:best|measure:f|stemmer:yes|version:{version('rouge_score')}"

    def statistics(self, answer: str, references: References) -> list[float]:
        return [float(self._scorer.score_multi(list(references), answer)[self._kind].fmeasure)]

    def item_score(self, statistics: Sequence[float]) -> float:
        return statistics[0]

    def corpus_score(self, sums: Sequence[float], items: int) -> float:
        return sums[0] / items


class _CachedTokenizer(Tokenizer):
    """rouge-score's own tokenizer, which stems each word anew; the three kinds of ROUGE ask for the same texts."""

    def __init__(self) -> None:
        self._tokens = lru_cache(maxsize=10_000)(DefaultTokenizer(use_stemmer=True).tokenize)

    def tokenize(self, text: str) -> list[str]:
        return self._tokens(text)


@cache
def _tokenizer() -> Tokenizer:
    return _CachedTokenizer()


SCORERS: Mapping[str, Callable[[], Scorer]] = {
    "bleu": BleuScorer,
    "chrf": ChrfScorer,
    "rouge_1": lambda: RougeFScorer("rouge1"),
    "rouge_2": lambda: RougeFScorer("rouge2"),
    "rouge_l": lambda: RougeFScorer("rougeL"),
}
"""The scorers by name."""


def _sacrebleu_signature(name: str, metric: BLEU | CHRF, references: Sequence[References]) -> str:
    signature = metric.get_signature()
    signature.update("nrefs", _reference_counts(references))
    return f"{name}|{signature.format()}"


def _reference_counts(references: Sequence[References]) -> str:
    counts = {len(of_item) for of_item in references}
    return str(counts.pop()) if len(counts) == 1 else "var"
