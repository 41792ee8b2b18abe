"""Writes the rows that stay as Parquet.

The files open unchanged in pandas and in Hugging Face's `datasets`. Which rows share a shard follows from the rows
alone, so the same rows always give the same digests, and each shard can be written by itself. The columns `rejected`,
`desirable` and `synthetic` are in all shards of a version as soon as one of its rows has a value there; otherwise in
none. So is `repeats`, how often one pass of training sees a row, as soon as a step of the recipe weighs rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mainspring_data_ingest.adapters.chunks import EXTRAS, ROW_SCHEMA, ChunkFolder
from mainspring_data_ingest.application.ports import RefinedShard
from mainspring_data_ingest.domain.report import Measure, TextStatistics
from mainspring_data_ingest.domain.splits import Split

REPEATS = "repeats"
BYTES_PER_SHARD = 256 << 20
ROWS_PER_GROUP = 5_000
BYTES_PER_GROUP = 8 << 20


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write.

    Attributes:
        split: Its split.
        number: Its position in the split.
        pieces: Numbers of chunks, each with the positions there of the candidates that it takes, and with how often
            one pass of training sees each of them; None where nothing is said about that.
        extras: Those of `EXTRAS` that the version has.
    """

    split: Split
    number: int
    pieces: tuple[tuple[int, Any, Any], ...]
    extras: tuple[str, ...]


@dataclass(frozen=True)
class WrittenShard:
    """A shard with its position in the split, and with the state of the `TextStatistics` of its rows."""

    shard: RefinedShard
    number: int
    after: dict[str, Any]


def plan(
    split: Split,
    rows: Any,
    sizes: Any,
    starts: Any,
    numbers: Sequence[int],
    *,
    extras: tuple[str, ...],
    rows_per_shard: int,
    repeats: Any = None,
) -> list[ShardPlan]:
    """How the rows of a split are shared out.

    Args:
        split: The split.
        rows: Its candidates, ascending.
        sizes: Bytes of each of them as canonical JSON line.
        starts: Number of the first candidate of each chunk, and of the one after the last.
        numbers: Number of each chunk.
        extras: Those of `EXTRAS` that the version has.
        rows_per_shard: Most rows of one shard.
        repeats: How often one pass of training sees each of the rows; None where nothing is said.
    """
    plans: list[ShardPlan] = []
    total, begin = np.cumsum(sizes, dtype=np.int64), 0
    while begin < len(rows):
        before = int(total[begin - 1]) if begin else 0
        end = min(begin + rows_per_shard, int(np.searchsorted(total, before + BYTES_PER_SHARD)) + 1, len(rows))
        members = rows[begin:end]
        chunks = np.searchsorted(starts, members, side="right") - 1
        counted = repeats[begin:end] if repeats is not None else None
        pieces = tuple(
            (
                numbers[chunk],
                members[chunks == chunk] - starts[chunk],
                counted[chunks == chunk] if counted is not None else None,
            )
            for chunk in np.unique(chunks).tolist()
        )
        plans.append(ShardPlan(split, len(plans), pieces, extras))
        begin = end
    return plans


def write(folder: Path, chunks: ChunkFolder, shard: ShardPlan) -> WrittenShard:
    """Writes one shard, whole or not at all."""
    path = folder / f"{shard.split.value.lower()}-{shard.number:05}.parquet"
    partial = path.with_suffix(".partial")
    hasher, rows, after = hashlib.sha256(), 0, TextStatistics()
    schema = pa.schema([*ROW_SCHEMA, *(pa.field(name, EXTRAS[name]) for name in shard.extras)])
    if any(counted is not None for _, _, counted in shard.pieces):
        schema = schema.append(pa.field(REPEATS, pa.int32()))
    with pq.ParquetWriter(partial, schema, compression="zstd", compression_level=3) as writer:
        for group in _groups(_pieces(chunks, shard, schema.names, hasher, after)):
            writer.write_table(group, row_group_size=ROWS_PER_GROUP)
            rows += group.num_rows
    partial.rename(path)
    return WrittenShard(RefinedShard(shard.split, path, rows, hasher.hexdigest()), shard.number, after.state())


def _pieces(
    chunks: ChunkFolder, shard: ShardPlan, columns: Sequence[str], hasher: Any, after: TextStatistics
) -> Iterator[Any]:
    for number, positions, counted in shard.pieces:
        table = chunks.texts(number, *columns, "canonical").take(pa.array(positions))
        lines = table["canonical"].combine_chunks()
        if counted is None:
            for line in lines:
                hasher.update(line.as_buffer())
        else:
            table = table.append_column(REPEATS, pa.array(counted, pa.int32()))
            for line, count in zip(lines, counted.tolist(), strict=True):
                head, key, tail = line.as_py().rpartition(b',"row_id":"')  # The keys stand in order.
                hasher.update(b'%b,"%b":%d%b%b' % (head, REPEATS.encode(), count, key, tail))
        table = table.select(columns)
        keys = chunks.array(number, "keys")[positions]
        measures = zip(*(keys[name].tolist() for name in Measure._fields), strict=True)
        for messages, measure, place in zip(
            table["messages"].to_pylist(), measures, keys["place"].tolist(), strict=True
        ):
            answer = "\n".join([m["content"] for m in messages if m["role"] == "assistant"])
            after.add_measured(Measure(*measure), answer, place)
        yield table


def _groups(pieces: Iterator[Any]) -> Iterator[Any]:
    """The rows in tables of the size of a row group."""
    waiting: list[Any] = []
    rows = size = 0
    for piece in pieces:
        begin = 0
        while begin < piece.num_rows:
            # Rows are about equally long within a piece; a group need not be exact.
            fit = max(1, int((BYTES_PER_GROUP - size) / max(1, piece.nbytes / piece.num_rows)))
            taken = piece.slice(begin, min(fit, ROWS_PER_GROUP - rows))
            waiting.append(taken)
            rows, size, begin = rows + taken.num_rows, size + taken.nbytes, begin + taken.num_rows
            if rows >= ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
                yield pa.concat_tables(waiting)
                waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)
