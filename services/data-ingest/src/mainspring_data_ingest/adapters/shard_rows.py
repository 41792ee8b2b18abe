"""Rows of Parquet shards, a batch at a time. Imported by child processes only: it needs Arrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

BATCH_ROWS = 1_000


def batches(path: Path, columns: Sequence[str] | None = None, skip: int = 0) -> Iterator[Any]:
    """Record batches of a shard after `skip` rows; row groups that are skipped whole are not read."""
    with pq.ParquetFile(path) as file:
        parquet: Any = file
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if skip >= rows:
                skip -= rows
                continue
            for batch in parquet.iter_batches(
                batch_size=BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
            ):
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                yield batch.slice(skip)
                skip = 0


def columns(path: Path) -> list[str]:
    """The names of a shard's columns."""
    return pq.read_schema(path).names


def rows(path: Path, skip: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of a shard; optional columns stand in a row only where they have a value."""
    for batch in batches(path, skip=skip):
        for row in batch.to_pylist():
            yield {key: value for key, value in row.items() if value is not None}


def canonical(row: Mapping[str, Any]) -> str:
    """A row as canonical JSON, over which digests are made: sorted keys, no spaces."""
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
