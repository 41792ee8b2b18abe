"""Rows of a dataset version, and which of them a run learns from.

A shard is Parquet with the columns `row_id` and `messages` (a list of role and content), as data-ingest writes it, and
with `rejected` (a worse last answer), `desirable` (a thumb on the last answer) and `repeats` (how often one pass sees
the row) when some row has them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as parquet

from mainspring_training_worker.spec import Refused, Shard

Message = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        row_id: Names it.
        messages: The last one is the answer to learn.
        rejected: A worse answer in its place, or None.
        desirable: Whether somebody found the answer good, or None when nobody said.
        repeats: How often one pass over the rows sees it.
    """

    row_id: str
    messages: tuple[Message, ...]
    rejected: str | None = None
    desirable: bool | None = None
    repeats: int = 1


def read_rows(shards: Iterable[Shard]) -> list[Row]:
    """All rows, in the order of the shards.

    Raises:
        Refused: DATASET_MISMATCH, a shard is not what its manifest says.
    """
    rows: list[Row] = []
    for shard in shards:
        table = _read(shard, ["row_id", "messages"], ["rejected", "desirable", "repeats"])
        columns = (table[name] for name in ("row_id", "messages", "rejected", "desirable", "repeats"))
        rows += [
            Row(row_id, tuple(turns), rejected, desirable, repeats or 1)
            for row_id, turns, rejected, desirable, repeats in zip(*columns, strict=True)
        ]
    unusable = next((row.row_id for row in rows if not row.messages or row.messages[-1]["role"] != "assistant"), None)
    if unusable is not None:
        raise Refused("DATASET_MISMATCH", f"row {unusable} does not end with an assistant's message; ingest it again")
    return rows


def repeated(rows: Iterable[Row]) -> list[Row]:
    """Each row as often as one pass shall see it. The ids of the second and further ones tell which row they repeat,
    and are different, so that they do not come one after the other.
    """
    return [
        replace(row, row_id=f"{row.row_id}+{number}" if number else row.row_id, repeats=1)
        for row in rows
        for number in range(row.repeats)
    ]


def read_ids(shards: Iterable[Shard]) -> set[str]:
    """The ids of all rows."""
    return {row_id for shard in shards for row_id in _read(shard, ["row_id"])["row_id"]}


def new_with_replay(rows: Sequence[Row], known: set[str], replay_ratio: float, seed: int) -> list[Row]:
    """The rows that are not known, and `replay_ratio` times as many known ones, which a stable hash chooses.

    Rehearsal of old examples keeps a model from forgetting them (Robins 1995, "Catastrophic forgetting, rehearsal and
    pseudorehearsal").
    """
    new = [row for row in rows if row.row_id not in known]
    old = first_by_hash([row for row in rows if row.row_id in known], round(replay_ratio * len(new)), f"replay {seed}")
    return new + old


def first_by_hash(rows: Sequence[Row], count: int, salt: str) -> list[Row]:
    """At most `count` rows; the same ones on any machine, whatever the order of `rows`."""
    return sorted(rows, key=lambda row: order_key(salt, row.row_id))[:count]


def order_key(salt: str, row_id: str) -> bytes:
    """A key that shuffles rows the same way on any machine and any version of Python."""
    return hashlib.sha256(f"{salt}\n{row_id}".encode()).digest()


def _read(shard: Shard, columns: list[str], optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The columns of a shard; of those that may be absent, Nones."""
    try:
        with parquet.ParquetFile(shard.path) as file:
            there = [name for name in optional if name in file.schema_arrow.names]
            table = file.read(columns=[*columns, *there])
    except (OSError, ValueError) as err:
        message = f"shard {shard.path.name} cannot be read as rows with the columns {columns}: {err}"
        raise Refused("DATASET_MISMATCH", message) from err
    if table.num_rows != shard.rows:
        message = f"shard {shard.path.name} has {table.num_rows} rows, its manifest says {shard.rows}"
        raise Refused("DATASET_MISMATCH", message)
    missing: set[str] = set(columns) - set(table.column_names)
    if missing:
        raise Refused("DATASET_MISMATCH", f"shard {shard.path.name} has no column {sorted(missing)}; publish it again")
    nothing: dict[str, list[Any]] = {name: [None] * table.num_rows for name in optional}
    return nothing | table.to_pydict()
