"""Writes what an erasure leaves of a version.

A source that held what is looked for cannot stay, for its bytes hold it. In its place comes a residue: the rows that
are left of it as JSON lines, each on the line that its record had, so that rows keep their origin and the source can be
read again. A source of which no row is left goes as a whole.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mainspring_data_ingest.adapters.jobs import SourceFile
from mainspring_data_ingest.adapters.reading import open_source
from mainspring_data_ingest.adapters.recognition import recognised
from mainspring_data_ingest.adapters.shard_jobs import EraseRows, FindText, SideShard
from mainspring_data_ingest.adapters.shard_rows import batches, canonical, rows
from mainspring_data_ingest.application.ports import RefinedShard
from mainspring_data_ingest.application.version_ports import Leftovers
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.erasures import Selector
from mainspring_data_ingest.domain.records import Record, RefusalReason
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.values import folded

Origin = tuple[int, int]
_CHUNK, _OVERLAP = 1 << 20, 8_000
"""Bytes read at a time where a file is no data, and characters of them that are looked at twice."""


def erase(job: EraseRows, folder: Path) -> Leftovers:
    """Does it; nothing is written when nothing is found.

    Raises:
        PreconditionFailed: ROWS_CORRUPT, a shard does not hold the rows that the manifest names.
    """
    search = _Search(job.selector, job.side.sources)
    for shard in job.side.shards:
        search.look_at_rows(shard)
    for row in _refused(job):
        search.look_at_refused(row)
    affected = {index for index, _ in (*search.origins, *search.refused_origins)}
    affected |= {number for number, source in enumerate(job.sources) if search.finds_source(number, source)}
    if not affected:
        return Leftovers(0, {}, (), (), None, {})
    residues = {index: path for index in sorted(affected) if (path := _residue(job, search, index, folder))}
    whole = affected - residues.keys()
    places = {old: new for new, old in enumerate(i for i in range(len(job.sources)) if i not in whole)}
    erased: Counter[RefusalReason] = Counter()
    path, kept = folder / "refused.jsonl", 0
    with path.open("w", encoding="utf-8") as file:
        for row in _refused(job):
            if (row["source_index"], row["line"]) in search.refused_origins or row["source_index"] in whole:
                erased[RefusalReason(row["reason"])] += 1
            else:
                file.write(json.dumps({**row, "source_index": places[row["source_index"]]}, ensure_ascii=False) + "\n")
                kept += 1
    return Leftovers(
        erased_rows=len(search.row_ids),
        erased_refused=dict(erased),
        affected=tuple(sorted(affected)),
        shards=tuple(_shards(job, search, places, folder)),
        refused=path if kept else None,
        residues=residues,
        row_ids=tuple(sorted(search.row_ids)),
    )


def holds(job: FindText) -> bool | None:
    """Whether a text is in a file, columns of any name included; None when the file cannot be read as data, and its
    bytes do not show the text either.
    """
    search = _Search(Selector(text=job.text), ())
    try:
        source = SourceFile(job.path, job.name, recognised(job.path, job.name, job.name), None)
        with ExitStack() as stack:
            reader, _ = open_source(source, ColumnMapping(), stack)
            return any(search.shows(record) for record in reader.records())
    except InvalidInput:
        return True if search.shows_bytes(job.path) else None


def _refused(job: EraseRows) -> Iterator[dict[str, Any]]:
    if job.refused is not None:
        with job.refused.open("rb") as file:
            for line in file:
                yield json.loads(line)


class _Search:
    """Finds a selector, and remembers where; memory grows with what is found only."""

    def __init__(self, selector: Selector, sources: tuple[str, ...]) -> None:
        self._selector, self._text = selector, folded(selector.text)
        self._ids = set(selector.row_ids)
        self._sources = {number for number, digest in enumerate(sources) if digest == selector.source_sha256}
        self.row_ids: set[str] = set()
        self.origins: set[Origin] = set()
        self.refused_origins: set[Origin] = set()

    def look_at_rows(self, shard: SideShard) -> None:
        """Finds rows; makes sure on the way that they are those which the digest names."""
        hasher = hashlib.sha256()
        for row in rows(shard.path):
            hasher.update(canonical(row).encode() + b"\n")
            if row["source_index"] in self._sources or row["row_id"] in self._ids or self._in(_texts(row)):
                self.row_ids.add(row["row_id"])
                self.origins.add((row["source_index"], row["line"]))
        if hasher.hexdigest() != shard.rows_sha256:
            message = "a shard does not hold the rows that the manifest names; restore it from a copy"
            raise PreconditionFailed("ROWS_CORRUPT", message)

    def look_at_refused(self, row: Mapping[str, Any]) -> None:
        """Finds a refused row."""
        if row["source_index"] in self._sources or self._in((row["excerpt"], row["detail"])):
            self.refused_origins.add((row["source_index"], row["line"]))

    def finds_source(self, number: int, source: SourceFile) -> bool:
        """Whether a source's bytes hold it, columns that no recipe names included."""
        if number in self._sources:
            return True
        if not self._text:
            return False
        try:
            with ExitStack() as stack:
                reader, _ = open_source(source, ColumnMapping(), stack)
                return any(self.shows(record) for record in reader.records())
        except InvalidInput:
            return True  # What cannot be read cannot be shown to be free of it.

    def shows(self, record: Record) -> bool:
        """Whether the text is in a record."""
        return self._in((*_texts(record.values), record.raw.decode(errors="replace")))

    def shows_bytes(self, path: Path) -> bool:
        """Whether the text is in bytes that are taken as UTF-8."""
        before = ""
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                text = chunk.decode(errors="ignore")
                if self._in((before + text,)):
                    return True
                before = text[-_OVERLAP:]
        return False

    def _in(self, texts: Iterable[str]) -> bool:
        return bool(self._text) and any(self._text in folded(text) for text in texts)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType] - JSON.
            yield str(key)  # pyright: ignore[reportUnknownArgumentType] - JSON.
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:  # pyright: ignore[reportUnknownVariableType] - JSON.
            yield from _texts(inner)
    elif value is not None:
        yield str(value)


def _residue(job: EraseRows, search: _Search, index: int, folder: Path) -> Path | None:
    """The rows that are left of a source, each on the line that its record had; None when there is none."""

    def left(split: Split) -> Iterator[tuple[int, str]]:
        for shard in job.side.shards:
            if shard.split == split.value.lower():
                for row in rows(shard.path):
                    if row["source_index"] == index and row["row_id"] not in search.row_ids:
                        kept = {key: row[key] for key in ("messages", "group", "rejected", "desirable") if key in row}
                        yield row["line"], canonical(kept)

    path, line = folder / f"residue-{index}.jsonl", 1
    with path.open("w", encoding="utf-8") as file:
        for number, text in heapq.merge(*map(left, Split)):
            file.write("\n" * max(0, number - line) + text + "\n")
            line = max(line, number) + 1
    if line == 1:
        path.unlink()
        return None
    return path


def _shards(job: EraseRows, search: _Search, places: Mapping[int, int], folder: Path) -> Iterator[RefinedShard]:
    moved = any(old != new for old, new in places.items())
    for number, shard in enumerate(job.side.shards):
        path = folder / f"left-{number}.parquet"
        hasher, count = hashlib.sha256(), 0
        writer: Any = None
        try:
            for batch in batches(shard.path):
                keep = [
                    i for i, row_id in enumerate(batch.column("row_id").to_pylist()) if row_id not in search.row_ids
                ]
                if not keep:
                    continue
                left = batch.take(keep) if len(keep) < batch.num_rows else batch
                if moved:
                    position = left.schema.get_field_index("source_index")
                    indexes = [places[old] for old in left.column(position).to_pylist()]
                    left = left.set_column(position, left.schema.field(position), pa.array(indexes, pa.int32()))
                if writer is None:
                    writer = pq.ParquetWriter(path, left.schema, compression="zstd", compression_level=3)
                writer.write_batch(left)
                count += left.num_rows
                for row in left.to_pylist():
                    line = canonical({key: value for key, value in row.items() if value is not None})
                    hasher.update(line.encode() + b"\n")
        finally:
            if writer is not None:
                writer.close()
        if count:
            yield RefinedShard(Split(shard.split.upper()), path, count, hasher.hexdigest())
