"""Writes rows as Parquet and refused rows as JSON Lines.

The files open unchanged in pandas and in Hugging Face's `datasets`. Which rows share a shard follows from the rows
alone, so the same rows always give the same digests.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mainspring_data_ingest.adapters.jobs import ROWS_PER_SHARD
from mainspring_data_ingest.application.files import refused_line
from mainspring_data_ingest.application.ports import RefinedShard
from mainspring_data_ingest.domain.records import RefusedRow
from mainspring_data_ingest.domain.rows import Row
from mainspring_data_ingest.domain.splits import Split

BYTES_PER_SHARD = 256 << 20
ROWS_PER_GROUP = 5_000
BYTES_PER_GROUP = 8 << 20
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("messages", _MESSAGES),
        ("group", pa.string()),
        ("source_index", pa.int32()),
        ("line", pa.int64()),
    ]
)


class ShardWriter:
    """Writes the shards of one split; bytes are those of the canonical rows."""

    def __init__(self, folder: Path, split: Split, *, rows_per_shard: int = ROWS_PER_SHARD) -> None:
        """Takes where to; files are made when their first row comes."""
        self._folder, self._split, self._rows_per_shard = folder, split, rows_per_shard
        self._writer: Any = None
        self._path = Path()
        self._waiting: list[Row] = []
        self._waiting_bytes = self._shard_bytes = self._shard_rows = 0
        self._hasher = hashlib.sha256()
        self.shards: list[RefinedShard] = []

    def write(self, row: Row) -> None:
        """Adds a row."""
        line = row.canonical.encode() + b"\n"
        self._hasher.update(line)
        self._waiting.append(row)
        self._waiting_bytes += len(line)
        self._shard_rows += 1
        self._shard_bytes += len(line)
        if self._shard_rows >= self._rows_per_shard or self._shard_bytes >= BYTES_PER_SHARD:
            self.close()
        elif len(self._waiting) >= ROWS_PER_GROUP or self._waiting_bytes >= BYTES_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Ends the shard that is open."""
        if not self._shard_rows:
            return
        self._flush()
        self._writer.close()
        self.shards.append(RefinedShard(self._split, self._path, self._shard_rows, self._hasher.hexdigest()))
        self._writer, self._hasher = None, hashlib.sha256()
        self._shard_rows = self._shard_bytes = 0

    def abandon(self) -> None:
        """Closes the file that is open, which is not a shard."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if self._writer is None:
            self._path = self._folder / f"{self._split.value.lower()}-{len(self.shards):05}.parquet"
            self._writer = pq.ParquetWriter(self._path, SCHEMA, compression="zstd", compression_level=3)
        rows, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if rows:
            self._writer.write_table(_table(rows), row_group_size=ROWS_PER_GROUP)


class Shards:
    """`RowSink` into a folder; leaving the block closes all files, and `finish` makes shards of them before."""

    def __init__(self, folder: Path, *, rows_per_shard: int = ROWS_PER_SHARD) -> None:
        self._writers = {split: ShardWriter(folder, split, rows_per_shard=rows_per_shard) for split in Split}
        self._refused = (folder / "refused.jsonl").open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.abandon()
        with suppress(OSError):
            self._refused.close()

    def keep(self, split: Split, row: Row) -> None:
        self._writers[split].write(row)

    def refuse(self, row: RefusedRow) -> None:
        self._refused.write(refused_line(row))

    def finish(self) -> tuple[tuple[RefinedShard, ...], Path | None]:
        """Ends all files; returns the shards, and the file of refused rows unless it is empty."""
        for writer in self._writers.values():
            writer.close()
        refused = Path(self._refused.name) if self._refused.tell() else None
        self._refused.close()
        return tuple(shard for writer in self._writers.values() for shard in writer.shards), refused


def _table(rows: list[Row]) -> Any:
    """Columns of rows; lists are built from offsets, which is several times quicker than from objects."""
    messages = [row.example.messages for row in rows]
    offsets = [0]
    for conversation in messages:
        offsets.append(offsets[-1] + len(conversation))
    struct = pa.StructArray.from_arrays(
        [
            pa.array([m.role for conversation in messages for m in conversation], pa.string()),
            pa.array([m.content for conversation in messages for m in conversation], pa.string()),
        ],
        fields=[_MESSAGES.value_type.field(0), _MESSAGES.value_type.field(1)],
    )
    return pa.table(
        [
            pa.array([row.row_id for row in rows], pa.string()),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), struct, type=_MESSAGES),
            pa.array([row.example.group for row in rows], pa.string()),
            pa.array([row.source_index for row in rows], pa.int32()),
            pa.array([row.line for row in rows], pa.int64()),
        ],
        schema=SCHEMA,
    )
