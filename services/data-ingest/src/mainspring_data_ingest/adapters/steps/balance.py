"""Balance: no class of rows has more than its share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mainspring_data_ingest.adapters.candidates import KEPT, Candidates
from mainspring_data_ingest.adapters.steps.base import Arrays, Refusals
from mainspring_data_ingest.application.refining import Candidate
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import Balance, BalanceBy, TextPart


class BalanceProbe:
    """Tells each row's class."""

    def __init__(self, step: Balance) -> None:
        self._step = step

    def probe(self, candidates: Sequence[Candidate], drafts: Sequence[Draft]) -> Arrays:
        """See `Probe`: 64 bits of each class's digest."""
        names = [self._name(candidate, draft) for candidate, draft in zip(candidates, drafts, strict=True)]
        digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
        return {"class": np.frombuffer(b"".join(digests), "<u8")}

    def _name(self, candidate: Candidate, draft: Draft) -> str:
        match self._step.by:
            case BalanceBy.LABEL:
                return draft.text(TextPart.ANSWER).strip().casefold()
            case BalanceBy.SOURCE:
                return str(candidate.row.source_index)
            case BalanceBy.GROUP:
                return candidate.row.example.group
            case BalanceBy.LENGTH:
                return str(len(draft.text(TextPart.ANSWER).split()).bit_length())


class BalanceDecision:
    """Refuses what a class has too much of: the rows with the greatest digests, so that neither the order of rows nor
    that of sources decides.
    """

    def __init__(self, step: Balance, position: int) -> None:
        self._step, self._position = step, position

    def decide(self, candidates: Candidates, folder: Path) -> Refusals:
        """See `Decision`."""
        kept = np.flatnonzero(candidates.fate == KEPT)
        classes = np.concatenate([np.empty(0, np.uint64), *self._classes(candidates)])[kept]
        _, numbers, sizes = np.unique(classes, return_inverse=True, return_counts=True)
        most = self._most(sizes)
        digests = candidates.column("row_low")[kept]
        order = np.lexsort((digests, numbers))
        begins = np.cumsum(sizes) - sizes
        rank = np.arange(len(order)) - begins[numbers[order]]
        rows = np.sort(kept[order[rank >= most]])
        detail = f"its class ({self._step.by.value.lower()}) has more than {most} rows"
        return Refusals(RefusalReason.OVER_REPRESENTED, rows, lambda _: detail)

    def _classes(self, candidates: Candidates) -> Iterator[Any]:
        for chunk in range(len(candidates.chunks)):
            yield candidates.array(chunk, f"{self._position}-class")

    def _most(self, sizes: Any) -> int:
        limits = [self._step.max_rows] if self._step.max_rows else []
        if self._step.max_ratio and len(sizes):
            limits.append(max(1, int(self._step.max_ratio * int(sizes.min()))))
        return min(limits)
