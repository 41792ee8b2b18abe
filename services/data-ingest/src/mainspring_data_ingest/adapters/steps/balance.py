"""Balance: no class of rows has more than its share, and small ones count for more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mainspring_data_ingest.adapters.candidates import KEPT, Candidates
from mainspring_data_ingest.adapters.steps import clusters
from mainspring_data_ingest.adapters.steps.base import Arrays, Refusals, Vectors
from mainspring_data_ingest.application.refining import Candidate
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import Balance, BalanceBy, TextPart


class BalanceProbe:
    """Tells each row's class, or the text that its cluster follows from."""

    def __init__(self, step: Balance) -> None:
        self._step = step

    def probe(self, candidates: Sequence[Candidate], drafts: Sequence[Draft]) -> Arrays:
        """See `Probe`: 64 bits of each class's digest."""
        if self._step.by is BalanceBy.CLUSTER:
            return clusters.texts_of(drafts)
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
            case BalanceBy.CLUSTER:
                raise AssertionError("clusters have no names")


class BalanceDecision:
    """Refuses what a class has too much of: the rows with the greatest digests, so that neither the order of rows nor
    that of sources decides.
    """

    def __init__(self, step: Balance, position: int, vectors: Vectors | None) -> None:
        self._step, self._position, self._vectors = step, position, vectors
        self._class_of: Any = np.empty(0, np.uint64)

    def decide(self, candidates: Candidates, folder: Path) -> Refusals:
        """See `Decision`."""
        kept = np.flatnonzero(candidates.fate == KEPT)
        self._class_of = self._classes(candidates, kept, folder)
        _, numbers, sizes = np.unique(self._class_of[kept], return_inverse=True, return_counts=True)
        most = self._most(sizes)
        begins = np.cumsum(sizes) - sizes
        order = np.lexsort((candidates.column("row_low")[kept], numbers))
        rank = np.arange(len(order)) - begins[numbers[order]]
        chosen = order[rank >= most[numbers[order]]]
        rows, limits = kept[chosen], most[numbers[chosen]]
        ascending = np.argsort(rows)
        rows, limits = rows[ascending], limits[ascending]
        by = self._step.by.value.lower()
        found = {"classes": len(sizes)}
        if len(sizes):
            left = np.minimum(sizes, most)
            found |= {"rows_of_largest_class": int(left.max()), "rows_of_smallest_class": int(left.min())}
        return Refusals(
            RefusalReason.OVER_REPRESENTED,
            rows,
            lambda index: f"its class ({by}) has more than {limits[index]} rows",
            found,
        )

    def repeats(self, candidates: Candidates, learned: Any) -> Any:
        """How often one pass of training sees each of the rows that are learned from."""
        step, counted = self._step, np.ones(len(learned), np.int32)
        if not step.min_weight or not len(learned):
            return counted
        _, numbers, sizes = np.unique(self._class_of[learned], return_inverse=True, return_counts=True)
        goal = np.maximum(sizes, np.ceil(step.min_weight * sizes.max()).astype(np.int64))
        goal = np.minimum(goal, sizes * step.max_repeats)
        begins = np.cumsum(sizes) - sizes
        order = np.lexsort((candidates.column("row_low")[learned], numbers))
        rank = np.arange(len(order)) - begins[numbers[order]]
        classes = numbers[order]
        # What does not divide evenly goes to the rows with the smallest digests.
        counted[order] = goal[classes] // sizes[classes] + (rank < goal[classes] % sizes[classes])
        return counted

    def _classes(self, candidates: Candidates, kept: Any, folder: Path) -> Any:
        if self._step.by is not BalanceBy.CLUSTER:
            return np.concatenate([np.empty(0, np.uint64), *self._arrays(candidates)])
        assert self._step.clusters is not None, "the contract demands it"
        assert self._vectors is not None, "whoever runs such a recipe has vectors made"
        found = np.zeros(candidates.count, np.uint64)
        found[kept] = clusters.labels(self._step.clusters, self._position, candidates, kept, folder, self._vectors)
        return found

    def _arrays(self, candidates: Candidates) -> Iterator[Any]:
        for chunk in range(len(candidates.chunks)):
            yield candidates.array(chunk, f"{self._position}-class")

    def _most(self, sizes: Any) -> Any:
        """Most rows of each class."""
        most: Any = sizes.copy()
        if self._step.max_rows:
            most = np.minimum(most, self._step.max_rows)
        if self._step.max_ratio and len(sizes):
            most = np.minimum(most, max(1, int(self._step.max_ratio * int(sizes.min()))))
        if self._step.sample_rows and int(most.sum()) > self._step.sample_rows:
            most = shared_out(most, self._step.sample_rows)
        return most


def shared_out(sizes: Any, total: int) -> Any:
    """So many of the rows of classes that each keeps its part of the whole, by largest remainders; each has at least
    one while there are enough. `total` is less than the sum of the sizes.
    """
    largest_first = np.lexsort((np.arange(len(sizes)), -sizes))
    shares = np.zeros(len(sizes), np.int64)
    if total <= len(sizes):
        shares[largest_first[:total]] = 1
        return shares
    rest, left = sizes - 1, total - len(sizes)
    exact = rest * (left / int(rest.sum()))
    shares = np.floor(exact).astype(np.int64)
    missing = left - int(shares.sum())
    by_remainder = np.lexsort((np.arange(len(sizes)), -(exact - shares)))
    shares[by_remainder[:missing]] += 1
    return shares + 1
