"""Which split a row goes to."""

from __future__ import annotations

import hashlib
from enum import StrEnum

from mainspring_data_ingest.domain.recipes import SplitShares
from mainspring_data_ingest.domain.rows import Row


class Split(StrEnum):
    """A part of a version; the order is that of manifests."""

    TRAIN = "TRAIN"
    VALIDATION = "VALIDATION"
    TEST = "TEST"


def split_of(group: str, shares: SplitShares) -> Split:
    """The split of a group. Its place (0 to 99) follows from its SHA-256 alone, so nothing moves when data is added."""
    place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) % 100
    if place < shares.train_percent:
        return Split.TRAIN
    return Split.VALIDATION if place < shares.train_percent + shares.validation_percent else Split.TEST


class SplitAssigner:
    """Assigns rows in input order.

    A row whose prompt came before goes where the first one went, whatever its group, so that no prompt is both learned
    from and tested on. Appending data cannot move a row: the first of its prompt stays the first.
    """

    def __init__(self, shares: SplitShares) -> None:
        self._shares = shares
        self._by_prompt: dict[bytes, Split] = {}

    def assign(self, row: Row) -> Split:
        """The row's split."""
        known = self._by_prompt.get(row.prompt_digest)
        if known is None:
            known = self._by_prompt[row.prompt_digest] = split_of(row.example.group, self._shares)
        return known
