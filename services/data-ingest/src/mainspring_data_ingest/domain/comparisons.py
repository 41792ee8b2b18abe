"""Comparisons of two versions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from mainspring_svckit.names import project_name_of
from mainspring_svckit.values import ArtifactRef


class ChangeKind(StrEnum):
    """What is different; the order is that in which changes are listed."""

    CHANGED = "CHANGED"
    ADDED = "ADDED"
    REMOVED = "REMOVED"
    MOVED = "MOVED"


@dataclass(frozen=True)
class ComparisonCounts:
    """How many rows are what; each row of either version is counted once."""

    base_rows: int
    target_rows: int
    same: int
    moved: int
    changed: int
    added: int
    removed: int


@dataclass(frozen=True)
class Comparison:
    """What a comparison of two versions found.

    Attributes:
        name: Identifies it; made of both versions' names.
        base: The version compared with.
        target: The version compared.
        counts: How many rows are what.
        changes: JSON lines, one a change; None when there is none.
    """

    name: str
    base: str
    target: str
    counts: ComparisonCounts
    changes: ArtifactRef | None


def comparison_name(base: str, target: str) -> str:
    """The name under which a comparison is kept."""
    digest = hashlib.sha256(f"{base}\n{target}".encode()).hexdigest()
    return f"{project_name_of(base)}/datasetComparisons/{digest[:32]}"
