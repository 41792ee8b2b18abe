"""Near duplicates: MinHash signatures in bands (rensa) find candidates, the exact Jaccard similarity decides.

Signatures are made of prompt and answer together, which are alike when both of them are; so nothing is lost by that,
and a common short answer ("yes") does not make all rows candidates of each other.
"""

from __future__ import annotations

from array import array
from typing import Any

import rensa

from mainspring_data_ingest.adapters.steps.base import BaseStep
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.rows import Draft, Origin
from mainspring_data_ingest.domain.steps import NearDuplicates, TextPart
from mainspring_data_ingest.domain.words import runs_of, words_of

# Compiled, without stubs.
RMinHash: Any = getattr(rensa, "RMinHash")  # noqa: B009 - the type checker does not see it.
RMinHashLSH: Any = getattr(rensa, "RMinHashLSH")  # noqa: B009 - the type checker does not see it.
_PERMUTATIONS = 128
_SEED = 42
"""Part of the rules: another seed may miss other pairs."""
_MAX_CANDIDATES = 1_000
"""Rows that one row is compared with; bounds the time where very many rows share a long text."""
_FOUND = 0.99
"""Chance with which a pair exactly at the threshold becomes a candidate, at least."""


class NearDuplicatesStep(BaseStep):
    """Refuses all but the first of rows that are almost the same.

    Memory grows by about 4 bytes for each shingle, and a kilobyte for each row, of the rows kept.
    """

    name = "near_duplicates"
    after_duplicates = True

    def __init__(self, step: NearDuplicates) -> None:
        super().__init__()
        self._step = step
        self._parts = (TextPart.PROMPT, TextPart.ANSWER) if step.part is TextPart.ALL else (step.part,)
        self._index = RMinHashLSH(step.threshold, _PERMUTATIONS, bands_for(step.threshold))
        self._rows: list[tuple[Origin, tuple[array[int], ...]]] = []
        self._last: tuple[Any, tuple[array[int], ...]] | None = None

    def apply(self, draft: Draft, origin: Origin) -> Draft:
        """See `Step`."""
        shingles = [
            [f"{part.value[0]}{run}" for run in runs_of(words_of(draft.text(part)), self._step.shingle_words)]
            for part in self._parts
        ]
        signature = RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
        signature.update([run for part in shingles for run in part])
        # 32 bits of each shingle's hash tell two texts apart well enough, in half of the memory.
        hashes = tuple(
            array("I", sorted({value & 0xFFFFFFFF for value in part})) for part in RMinHash.hash_token_sets(shingles)
        )
        sets = [frozenset(part) for part in hashes]
        for candidate in sorted(self._index.query(signature))[:_MAX_CANDIDATES]:
            first, others = self._rows[candidate]
            alike = min(_jaccard(mine, other) for mine, other in zip(sets, others, strict=True))
            if alike >= self._step.threshold:
                where = f"line {first.line}" + (f" of source {first.source_index}" if origin[0] != first[0] else "")
                detail = f"is {alike:.0%} like {where}, which is kept because it came first"
                raise RowRefused(RefusalReason.NEAR_DUPLICATE, detail)
        self._last = signature, hashes
        return draft

    def kept(self, origin: Origin) -> None:
        """See `Step`."""
        assert self._last is not None
        signature, hashes = self._last
        self._index.insert(len(self._rows), signature)
        self._rows.append((origin, hashes))


def bands_for(threshold: float) -> int:
    """The fewest bands with which a pair at the threshold is found, nearly always (see `_FOUND`)."""
    for rows in (16, 8, 4, 2):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= _FOUND:
            return bands
    return _PERMUTATIONS


def _jaccard(mine: frozenset[int], other: array[int]) -> float:
    if not mine and not other:
        return 1.0
    common = sum(value in mine for value in other)
    return common / (len(mine) + len(other) - common)
