"""Which split a row goes to."""

from __future__ import annotations

from enum import StrEnum

from mainspring_data_ingest.domain.recipes import SplitShares

PLACES = 100


class Split(StrEnum):
    """A part of a version; the order is that of manifests."""

    TRAIN = "TRAIN"
    VALIDATION = "VALIDATION"
    TEST = "TEST"


def place_of(digest: bytes) -> int:
    """The place of a group, 0 to 99. It follows from its SHA-256 alone, or from that of its stratum and it; so nothing
    moves when data is added.
    """
    return int.from_bytes(digest[:8]) % PLACES


def splits_by_place(shares: SplitShares) -> tuple[Split, ...]:
    """The split of each place."""
    counts = (shares.train_percent, shares.validation_percent, shares.test_percent)
    return tuple(split for split, count in zip(Split, counts, strict=True) for _ in range(count))
