"""Writes what an erasure leaves of a version's sources and shards. Imported by child processes only: it needs Arrow.

A source that held what is looked for cannot stay, for its bytes hold it. In its place comes a residue: the rows that
are left of it as JSON lines, each on the line that its record had, so that rows keep their origin and the source can be
read again; where a line gave several rows, the others follow it. A source of which no row is left goes as a whole.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mainspring_data_ingest.adapters.jobs import SourceFile
from mainspring_data_ingest.adapters.reading import open_source
from mainspring_data_ingest.adapters.shard_jobs import EraseRows
from mainspring_data_ingest.adapters.shard_rows import batches, canonical, rows
from mainspring_data_ingest.application.ports import RefinedShard
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import Record, RowRefused
from mainspring_data_ingest.domain.report import TextStatistics
from mainspring_data_ingest.domain.rows import Draft, ExampleMaker, Message, Row, without_recipe
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.errors import InvalidInput

NOTE = "of_ingestion"
"""Holds in a residue what a record cannot tell any more of its row: that steps had `changed` it, and its `line` where
that is another one. It is true for the `ingestion` that it names only, since a residue can be ingested again.
"""

KEPT_COLUMNS = ("messages", "group", "rejected", "desirable", "synthetic")
"""Of a row what a residue keeps; the rest follows from it, or from where it stands."""


def note_of(record: Record, ingestion: str) -> dict[str, Any]:
    """What an erasure of the ingestion's rows noted in a record; empty where it noted nothing."""
    note = record.values.get(NOTE)
    return note if isinstance(note, dict) and note.get("ingestion") == ingestion else {}


def residue(job: EraseRows, erased: Collection[str], index: int, folder: Path) -> tuple[Path | None, int]:
    """The file that comes in a source's place, None when no row is left of it; and how many of its erased rows steps
    had changed.
    """

    def of(split: Split) -> Iterator[tuple[int, str, dict[str, Any]]]:
        for shard in job.side.shards:
            if shard.split == split.value.lower():
                for row in rows(shard.path):
                    if row["source_index"] == index:
                        yield row["line"], row["row_id"], row

    path, next_line, erased_changed = folder / f"residue-{index}.jsonl", 1, 0
    with path.open("w", encoding="utf-8") as file, ExitStack() as stack:
        records = _Unchanged(job, job.sources[index], stack)
        for line, row_id, row in heapq.merge(*map(of, Split), key=lambda found: found[0]):
            changed = not records.have(line, row_id)
            if row_id in erased:
                erased_changed += changed
                continue
            kept = {key: row[key] for key in KEPT_COLUMNS if key in row}
            at = max(next_line, line)
            if job.recipe is not None and (changed or at != line):
                kept[NOTE] = {"ingestion": job.ingestion, "line": line, "changed": changed}
            file.write("\n" * (at - next_line) + canonical(kept) + "\n")
            next_line = at + 1
    if next_line == 1:
        path.unlink()
        return None, erased_changed
    return path, erased_changed


class _Unchanged:
    """Knows which rows a source's records are without any step. Lines are asked for in ascending order, so that memory
    does not grow with the source.
    """

    def __init__(self, job: EraseRows, source: SourceFile, stack: ExitStack) -> None:
        self._lines: Iterator[tuple[int, Iterator[Record]]] = iter(())
        self._line, self._ids, self._ingestion = 0, set[str](), job.ingestion
        if job.recipe is not None:
            columns = source.columns or job.recipe.columns
            self._maker = ExampleMaker(job.recipe, columns)
            self._lines = groupby(_records(source, columns, stack), key=self._line_of)

    def have(self, line: int, row_id: str) -> bool:
        """Whether a record of the line gives the row as it is."""
        try:
            while self._line < line:
                self._line, records = next(self._lines)
                self._ids = {made for record in records if (made := self._made(record))}
        except StopIteration:
            return False
        return self._line == line and row_id in self._ids

    def _line_of(self, record: Record) -> int:
        return note_of(record, self._ingestion).get("line", record.line)

    def _made(self, record: Record) -> str:
        if record.problem or note_of(record, self._ingestion).get("changed"):
            return ""
        try:
            return Row.of(self._maker.make(record.values), 0, record.line).row_id
        except RowRefused:
            return ""


def _records(source: SourceFile, columns: ColumnMapping, stack: ExitStack) -> Iterator[Record]:
    with suppress(InvalidInput):  # Of a source that cannot be read any more nothing is known.
        reader, _ = open_source(source, columns, stack)
        yield from reader.records()


class Texts:
    """Describes the texts of a version's rows, and of those that an erasure leaves, as ingestions do: without the
    recipe's system prompt and template.
    """

    def __init__(self, recipe: IngestionRecipe) -> None:
        self.recipe = recipe
        self.before, self.after = TextStatistics(), TextStatistics()

    def add(self, row: Mapping[str, Any], *, left: bool) -> None:
        """Takes a row in."""
        messages = tuple([Message(m["role"], m["content"]) for m in row["messages"]])
        draft = Draft(without_recipe(self.recipe, messages))
        self.before.add(draft)
        if left:
            self.after.add(draft)


def shards(
    job: EraseRows, erased: Collection[str], places: Mapping[int, int], folder: Path, texts: Texts | None
) -> Iterator[RefinedShard]:
    """The shards without the erased rows; `places` says where sources have moved, `texts` takes all rows in."""
    moved = any(old != new for old, new in places.items())
    for number, shard in enumerate(job.side.shards):
        path = folder / f"left-{number}.parquet"
        hasher, count = hashlib.sha256(), 0
        writer: Any = None
        try:
            for batch in batches(shard.path):
                values = batch.to_pylist()
                keep = [place for place, row in enumerate(values) if row["row_id"] not in erased]
                if texts is not None:
                    for row in values:
                        texts.add(row, left=row["row_id"] not in erased)
                if not keep:
                    continue
                left = batch.take(keep) if len(keep) < batch.num_rows else batch
                if moved:
                    position = left.schema.get_field_index("source_index")
                    indexes = [places[values[place]["source_index"]] for place in keep]
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
