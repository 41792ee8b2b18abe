"""What use cases of published versions need from outside, beyond `Ports`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mainspring_data_ingest.domain.comparisons import ComparisonCounts
from mainspring_data_ingest.domain.datasets import Shard
from mainspring_data_ingest.domain.manifests import Manifest
from mainspring_svckit.values import ArtifactRef

MAX_PAGE_BYTES = 4 << 20
"""Where a page of rows ends early."""


@dataclass(frozen=True)
class Compared:
    """What a comparison found, not stored yet; `changes` are JSON lines, None when there is none."""

    counts: ComparisonCounts
    changes: Path | None


class ShardTools(Protocol):
    """Reads and writes Parquet shards, in a process of its own.

    Raises:
        NotFound: The store lacks a shard.
        PreconditionFailed: A shard is damaged.
        InsufficientStorage: The disk is full.
        Unavailable: It could not be done now.
    """

    async def rows(self, project: str, shards: Sequence[Shard], skip: int, count: int) -> list[dict[str, Any]]:
        """At most `count` rows after `skip` rows, in order; fewer when they would be more than `MAX_PAGE_BYTES`."""
        ...

    def compare(self, project: str, base: Manifest, target: Manifest) -> AbstractAsyncContextManager[Compared]:
        """Compares two versions row by row; the file is removed at the end of the block."""
        ...

    def json_lines(self, project: str, shard: Shard) -> AbstractAsyncContextManager[Path]:
        """A shard's rows as JSON lines; the file is removed at the end of the block."""
        ...

    def fetched(self, project: str, artifact: ArtifactRef) -> AbstractAsyncContextManager[Path]:
        """A file of the store on the disk, verified; it is removed at the end of the block."""
        ...
