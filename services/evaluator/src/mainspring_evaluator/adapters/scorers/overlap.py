"""Overlap with references: BLEU, chrF, TER (sacrebleu) and ROUGE (rouge-score), exactly as the libraries count."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from threading import Lock
from typing import ClassVar

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from mainspring_evaluator.adapters.scorers.base import MeanScorer, Setup
from mainspring_evaluator.domain.items import Sample

REMEMBERED = frozenset({"bleu", "chrf", "ter", "rouge_1", "rouge_2", "rouge_l", "rouge_lsum"})
"""Scorers that know what they counted of an answer."""
_MEMORY_ENTRIES = 50_000
_memory: OrderedDict[bytes, list[float]] = OrderedDict()
_memory_lock = Lock()


def _remembered(kind: str, text: str, references: Sequence[str], compute: Callable[[], list[float]]) -> list[float]:
    """Statistics of an answer, from before where they are known: the champion's are asked for at every run."""
    key = hashlib.blake2b(json.dumps([kind, text, *references]).encode(), digest_size=16).digest()
    with _memory_lock:
        if (known := _memory.get(key)) is not None:
            _memory.move_to_end(key)
            return known
    found = compute()
    with _memory_lock:
        _memory[key] = found
        while len(_memory) > _MEMORY_ENTRIES:
            _memory.popitem(last=False)
    return found


class _Opened:
    """Opens what sacrebleu keeps for its own bootstrap; the order of the statistics is its business."""

    def segment(self, answer: str, references: Sequence[str]) -> list[float]:
        streams = [[reference] for reference in references]
        return list(self._extract_corpus_statistics([answer], streams)[0])  # type: ignore[attr-defined]

    def score_of(self, statistics: Sequence[float]) -> float:
        return float(self._compute_score_from_stats(list(statistics)).score)  # type: ignore[attr-defined]


class _Bleu(_Opened, BLEU):
    pass


class _Chrf(_Opened, CHRF):
    pass


class _Ter(_Opened, TER):
    pass


class _SacrebleuScorer:
    """A metric of sacrebleu, 0 to 100."""

    lower_is_better = False
    binary = False
    title: ClassVar[str]

    def __init__(self, setup: Setup, corpus: _Bleu | _Chrf | _Ter, item: _Bleu | _Chrf | _Ter | None = None) -> None:
        self._setup, self._corpus, self._item = setup, corpus, item or corpus

    @property
    def signature(self) -> str:
        self._corpus.num_refs = -1  # "var" until the next line; the metric learns it only when it counts by itself.
        signature = self._corpus.get_signature()
        signature.update("nrefs", self._setup.reference_counts)
        return f"{self.title}|{signature.format()}"

    def statistics(self, sample: Sample) -> Sequence[float] | None:
        text, references = sample.answer.text, sample.item.references
        if not references:
            return None
        return _remembered(self.title, text, references, lambda: self._corpus.segment(text, references))

    def item_score(self, statistics: Sequence[float]) -> float:
        return self._item.score_of(statistics)

    def corpus_score(self, sums: Sequence[float], items: float) -> float:
        del items
        return self._corpus.score_of(sums)


class BleuScorer(_SacrebleuScorer):
    """BLEU (Papineni et al. 2002); of one item with effective order, as sacrebleu advises."""

    title = "BLEU"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, _Bleu(force=True), _Bleu(force=True, effective_order=True))


class ChrfScorer(_SacrebleuScorer):
    """chrF (Popović 2015); the best reference counts."""

    title = "chrF"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, _Chrf())


class TerScorer(_SacrebleuScorer):
    """Translation edit rate (Snover et al. 2006): edits to the nearest reference for 100 words; less is better."""

    title = "TER"
    lower_is_better = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, _Ter())


class _RougeScorer(MeanScorer):
    """ROUGE F-measure (Lin 2004) with stemming, 0 to 1: the best reference's, averaged over items."""

    kind: ClassVar[str]

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._scorer = RougeScorer([self.kind], tokenizer=_tokenizer())

    @property
    def signature(self) -> str:
        refs = self.setup.reference_counts
        return f"{self.kind}|nrefs:{refs}|refs:best|measure:f|stemmer:yes|version:{version('rouge_score')}"

    def score(self, sample: Sample) -> float | None:
        text, references = sample.answer.text, sample.item.references
        if not references:
            return None
        return _remembered(self.kind, text, references, lambda: [self._f_measure(text, references)])[0]

    def _f_measure(self, text: str, references: Sequence[str]) -> float:
        return float(self._scorer.score_multi(list(references), text)[self.kind].fmeasure)


class Rouge1Scorer(_RougeScorer):
    """Words."""

    kind = "rouge1"


class Rouge2Scorer(_RougeScorer):
    """Pairs of words."""

    kind = "rouge2"


class RougeLScorer(_RougeScorer):
    """Longest common subsequence of the text as a whole."""

    kind = "rougeL"


class RougeLsumScorer(_RougeScorer):
    """Longest common subsequences of its lines, taken together."""

    kind = "rougeLsum"


class _CachedTokenizer(Tokenizer):
    """rouge-score's own tokenizer, which stems each word anew; the kinds of ROUGE ask for the same texts."""

    def __init__(self) -> None:
        self._tokens = lru_cache(maxsize=20_000)(DefaultTokenizer(use_stemmer=True).tokenize)

    def tokenize(self, text: str) -> list[str]:
        return self._tokens(text)


@cache
def _tokenizer() -> Tokenizer:
    return _CachedTokenizer()
