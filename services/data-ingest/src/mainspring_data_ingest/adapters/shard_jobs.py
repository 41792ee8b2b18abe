"""What the service and its process for shards tell each other; apart from both, since only the process needs Arrow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from mainspring_data_ingest.domain.comparisons import ComparisonCounts


@dataclass(frozen=True)
class SideShard:
    """One shard of a version on the local disk."""

    path: Path
    split: str
    rows: int
    rows_sha256: str


@dataclass(frozen=True)
class Side:
    """One of two versions.

    Attributes:
        shards: Its rows.
        sources: Digest of each source, by its position.
    """

    shards: tuple[SideShard, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ReadRows:
    """Writes rows to `rows.jsonl`: at most `count` after `skip`, no more than `max_bytes`; their split when wanted."""

    shards: tuple[SideShard, ...]
    skip: int
    count: int
    max_bytes: int
    with_split: bool
    kind: Literal["read_rows"] = "read_rows"


@dataclass(frozen=True)
class CompareSides:
    """Writes the differences of two versions to `changes.jsonl`, and their counts to `result.json`."""

    base: Side
    target: Side
    kind: Literal["compare"] = "compare"


ShardJob = ReadRows | CompareSides
SHARD_JOB: TypeAdapter[ShardJob] = TypeAdapter(ShardJob)
COUNTS = TypeAdapter(ComparisonCounts)
