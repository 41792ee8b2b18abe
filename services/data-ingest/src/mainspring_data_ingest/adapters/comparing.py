"""Compares two versions row by row, with SQLite on the disk in place of memory that grows with the data.

Shards that both versions have are the same rows and are not read. Of the others first the ids are compared; texts are
read only of rows that one version has and the other has not. Those are paired when they come from the same record of
the same source, or else when they have the same prompt.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from mainspring_data_ingest.adapters.shard_jobs import Side, SideShard
from mainspring_data_ingest.adapters.shard_rows import batches, canonical
from mainspring_data_ingest.domain.comparisons import ChangeKind, ComparisonCounts

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -32768;
PRAGMA temp_store = FILE;
CREATE TABLE id (side INTEGER, row_id BLOB, split TEXT, PRIMARY KEY (row_id, side)) WITHOUT ROWID;
CREATE TABLE one (
    place INTEGER PRIMARY KEY, side INTEGER, row_id BLOB, origin BLOB, prompt BLOB, body TEXT, pair INTEGER
);
"""
_PAIR = """
CREATE TEMPORARY TABLE link AS
WITH base AS (
    SELECT place, {key}, row_number() OVER (PARTITION BY {key} ORDER BY place) AS nth FROM one
    WHERE side = 0 AND pair IS NULL
), target AS (
    SELECT place, {key}, row_number() OVER (PARTITION BY {key} ORDER BY place) AS nth FROM one
    WHERE side = 1 AND pair IS NULL
)
SELECT base.place AS old, target.place AS new FROM base JOIN target USING ({key}, nth);
UPDATE one SET pair = link.new FROM link WHERE one.place = link.old;
UPDATE one SET pair = link.old FROM link WHERE one.place = link.new;
DROP TABLE link;
"""
_PAIRED = """
SELECT b.body, t.body FROM one t JOIN one b ON t.pair = b.place
WHERE t.side = 1 AND t.row_id {comparison} b.row_id ORDER BY t.place
"""
_SAME = """
SELECT count(*) FROM id b JOIN id t ON b.row_id = t.row_id AND b.side = 0 AND t.side = 1 WHERE b.split = t.split
"""
_ALONE = "SELECT body FROM one WHERE side = ? AND pair IS NULL ORDER BY place"
_SPLIT = "SELECT split FROM id WHERE row_id = ? AND side = ?"


def compare(base: Side, target: Side, folder: Path, changes: Path) -> ComparisonCounts:
    """Writes the differences as JSON lines and counts them.

    Args:
        base: The version compared with.
        target: The version compared.
        folder: Where temporary files go.
        changes: Where the differences go; not made when there are none.
    """
    sides, same = _without_common(base, target)
    with closing(sqlite3.connect(folder / "compare.sqlite")) as database:
        database.executescript(_SCHEMA)
        for number, side in enumerate(sides):
            for shard in side.shards:
                _read_ids(database, number, shard)
        same += int(database.execute(_SAME).fetchone()[0])
        for number, side in enumerate(sides):
            for shard in side.shards:
                _read_texts(database, number, side, shard)
        for key in ("row_id", "origin", "prompt"):
            database.executescript(_PAIR.format(key=key))
        counts: Counter[ChangeKind] = Counter()
        with changes.open("w", encoding="utf-8") as file:
            for kind, old, new in _differences(database):
                counts[kind] += 1
                file.write(f'{{"kind":"{kind.value}","base":{old or "null"},"target":{new or "null"}}}\n')
    if not counts:
        changes.unlink()
    return ComparisonCounts(
        base_rows=sum(shard.rows for shard in base.shards),
        target_rows=sum(shard.rows for shard in target.shards),
        same=same,
        moved=counts[ChangeKind.MOVED],
        changed=counts[ChangeKind.CHANGED],
        added=counts[ChangeKind.ADDED],
        removed=counts[ChangeKind.REMOVED],
    )


def _without_common(base: Side, target: Side) -> tuple[tuple[Side, Side], int]:
    """Both versions without the shards that both have, and the rows of those."""
    common = Counter((s.split, s.rows_sha256) for s in base.shards) & Counter(
        (s.split, s.rows_sha256) for s in target.shards
    )

    def rest(side: Side) -> tuple[Side, int]:
        left, shards, rows = Counter(common), list[SideShard](), 0
        for shard in side.shards:
            if left[shard.split, shard.rows_sha256]:
                left[shard.split, shard.rows_sha256] -= 1
                rows += shard.rows
            else:
                shards.append(shard)
        return Side(tuple(shards), side.sources), rows

    (base, same), (target, _) = rest(base), rest(target)
    return (base, target), same


def _read_ids(database: sqlite3.Connection, number: int, shard: SideShard) -> None:
    for batch in batches(shard.path, ["row_id"]):
        ids = batch.column(0).to_pylist()
        database.executemany(
            "INSERT OR IGNORE INTO id VALUES (?, ?, ?)", [(number, bytes.fromhex(i), shard.split) for i in ids]
        )


def _read_texts(database: sqlite3.Connection, number: int, side: Side, shard: SideShard) -> None:
    """Keeps the rows of a shard that the other version has not, or has in another split."""

    def wanted(ids: Iterable[str]) -> list[int]:
        others = (database.execute(_SPLIT, (bytes.fromhex(i), 1 - number)).fetchone() for i in ids)
        return [place for place, other in enumerate(others) if other != (shard.split,)]

    if not any(wanted(batch.column(0).to_pylist()) for batch in batches(shard.path, ["row_id"])):
        return
    for batch in batches(shard.path):
        places = wanted(batch.column("row_id").to_pylist())
        values: list[tuple[Any, ...]] = []
        for row in batch.take(places).to_pylist() if places else ():
            origin = f"{side.sources[row['source_index']]} {row['line']}"
            # Plain text has no prompt, and is like no other for that.
            prompt = _digest(json.dumps(row["messages"][:-1], ensure_ascii=False)) if row["messages"][1:] else None
            body = canonical({**{k: v for k, v in row.items() if v is not None}, "split": shard.split})
            values.append((number, bytes.fromhex(row["row_id"]), _digest(origin), prompt, body))
        database.executemany("INSERT INTO one (side, row_id, origin, prompt, body) VALUES (?, ?, ?, ?, ?)", values)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _differences(database: sqlite3.Connection) -> Iterator[tuple[ChangeKind, str, str]]:
    for old, new in database.execute(_PAIRED.format(comparison="<>")):
        yield ChangeKind.CHANGED, old, new
    for (new,) in database.execute(_ALONE, (1,)):
        yield ChangeKind.ADDED, "", new
    for (old,) in database.execute(_ALONE, (0,)):
        yield ChangeKind.REMOVED, old, ""
    for old, new in database.execute(_PAIRED.format(comparison="=")):
        yield ChangeKind.MOVED, old, new
