"""Writes rows as Parquet and refused rows as JSON Lines.

The files open unchanged in pandas and in Hugging Face's `datasets`. Which rows share a shard follows from the rows
alone, so the same rows always give the same digests. The columns `rejected` and `desirable` are in all shards of a
version as soon as one of its rows has a value there; otherwise in none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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

EXTRAS = {"rejected": pa.string(), "desirable": pa.bool_()}
"""Columns that a version has only when some row of it has a value there, in this order."""


class ShardWriter:
    """Writes the shards of one split; bytes are those of the canonical rows."""

    def __init__(self, folder: Path, split: Split, *, rows_per_shard: int = ROWS_PER_SHARD) -> None:
        """Takes where to; files are made when their first row comes."""
        self._folder, self._split, self._rows_per_shard = folder, split, rows_per_shard
        self._writer: Any = None
        self._path = Path()
        self._extras: tuple[str, ...] = ()
        self._waiting: list[Row] = []
        self._waiting_bytes = self._shard_bytes = self._shard_rows = 0
        self._hasher = hashlib.sha256()
        self.shards: list[RefinedShard] = []

    def write(self, row: Row) -> None:
        """Adds a row."""
        line = row.canonical.encode() + b"\n"
        self._hasher.update(line)
        self._waiting.append(row)
        if row.example.rejected is not None or row.example.desirable is not None:
            self._meet(row)
        self._waiting_bytes += len(line)
        self._shard_rows += 1
        self._shard_bytes += len(line)
        if self._shard_rows >= self._rows_per_shard or self._shard_bytes >= BYTES_PER_SHARD:
            self.close()
        elif len(self._waiting) >= ROWS_PER_GROUP or self._waiting_bytes >= BYTES_PER_GROUP:
            self._flush()

    @property
    def extras(self) -> tuple[str, ...]:
        """Those of `EXTRAS` that some row has."""
        return self._extras

    def complete(self, extras: Sequence[str]) -> None:
        """Gives every shard that is closed the columns that it lacks."""
        for shard in self.shards:
            missing = [name for name in extras if name not in pq.read_schema(shard.path).names]
            if missing:
                _rewrite(shard.path, extras, keep_open=False)

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

    def _meet(self, row: Row) -> None:
        """Sees to it that the open file has the columns that a row needs."""
        found = tuple([e for e in EXTRAS if e in self._extras or getattr(row.example, e) is not None])
        if found == self._extras:
            return
        self._extras = found
        if self._writer is not None:
            self._writer.close()
            self._writer = _rewrite(self._path, found, keep_open=True)

    def _flush(self) -> None:
        if self._writer is None:
            self._path = self._folder / f"{self._split.value.lower()}-{len(self.shards):05}.parquet"
            self._writer = _writer(self._path, self._extras)
        rows, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if rows:
            self._writer.write_table(_table(rows, self._extras), row_group_size=ROWS_PER_GROUP)


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
        found = {name for writer in self._writers.values() for name in writer.extras}
        for writer in self._writers.values():
            writer.complete([name for name in EXTRAS if name in found])
        refused = Path(self._refused.name) if self._refused.tell() else None
        self._refused.close()
        return tuple(shard for writer in self._writers.values() for shard in writer.shards), refused


def _schema(extras: Sequence[str]) -> Any:
    return pa.schema([*SCHEMA, *(pa.field(name, EXTRAS[name]) for name in extras)])


def _writer(path: Path, extras: Sequence[str]) -> Any:
    return pq.ParquetWriter(path, _schema(extras), compression="zstd", compression_level=3)


def _rewrite(path: Path, extras: Sequence[str], *, keep_open: bool) -> Any:
    """Writes a file once more, with null where its rows have no value; returns the writer, if it shall stay open."""
    before = path.rename(path.with_suffix(".narrow"))
    schema, writer = _schema(extras), _writer(path, extras)
    with pq.ParquetFile(before) as narrow:
        for number in range(narrow.num_row_groups):
            group: Any = narrow.read_row_group(number)
            columns = [
                group[f.name] if f.name in group.column_names else pa.nulls(group.num_rows, f.type) for f in schema
            ]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=ROWS_PER_GROUP)
    before.unlink()
    if not keep_open:
        writer.close()
    return writer


def _table(rows: list[Row], extras: Sequence[str]) -> Any:
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
            *(pa.array([getattr(row.example, name) for row in rows], EXTRAS[name]) for name in extras),
        ],
        schema=_schema(extras),
    )
