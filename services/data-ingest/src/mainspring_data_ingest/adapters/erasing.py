"""Looks for what is erased in a version, and writes what is left of it."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mainspring_data_ingest.adapters import leftovers
from mainspring_data_ingest.adapters.jobs import SourceFile
from mainspring_data_ingest.adapters.reading import open_source
from mainspring_data_ingest.adapters.recognition import recognised
from mainspring_data_ingest.adapters.shard_jobs import EraseRows, FindText, SideShard
from mainspring_data_ingest.adapters.shard_rows import canonical, rows
from mainspring_data_ingest.application.files import changed_line, changed_row, refused_line, refused_row
from mainspring_data_ingest.application.version_ports import Leftovers, LeftTexts
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.erasures import Selector
from mainspring_data_ingest.domain.measurements import SAMPLE_ROWS
from mainspring_data_ingest.domain.records import SOURCE_GONE, Record, RefusalReason, RefusedRow, StepPlace
from mainspring_data_ingest.domain.report import ERASURE
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
    search = _Search(job.selector, job.side.sources, job.ingestion)
    for shard in job.side.shards:
        search.look_at_rows(shard)
    for row in _refused(job):
        search.look_at_refused(row)
    affected = {index for index, _ in (*search.origins, *search.refused_origins)}
    affected |= {number for number, source in enumerate(job.sources) if search.finds_source(number, source)}
    if not affected:
        return Leftovers(0, {}, (), (), None, {})
    made = {index: leftovers.residue(job, search.row_ids, index, folder) for index in sorted(affected)}
    residues = {index: path for index, (path, _) in made.items() if path is not None}
    whole = affected - residues.keys()
    places = {old: new for new, old in enumerate(i for i in range(len(job.sources)) if i not in whole)}
    texts = leftovers.Texts(job.recipe) if job.recipe is not None else None
    shards = tuple(leftovers.shards(job, search.row_ids, places, folder, texts))
    refused = folder / "refused.jsonl"
    return Leftovers(
        erased_rows=len(search.row_ids),
        erased_refused=_write_refused(job, search, places, refused),
        affected=tuple(sorted(affected)),
        shards=shards,
        refused=refused if refused.stat().st_size else None,
        residues=residues,
        row_ids=tuple(sorted(search.row_ids)),
        texts=_described(texts, job, sum(changed for _, changed in made.values())) if texts is not None else None,
        changed=_write_changed(job, search.row_ids, places, folder / "changed.jsonl"),
    )


def _write_refused(job: EraseRows, search: _Search, places: Mapping[int, int], path: Path) -> dict[RefusalReason, int]:
    """Writes the refused rows in input order, erased ones among them without what they said; the numbers of those
    that had been refused before, by the reason of that time.
    """
    erased: Counter[RefusalReason] = Counter()

    def gone(source: int, line: int, before: str = "") -> RefusedRow:
        found = (source, line) in search.origins or (source, line) in search.refused_origins
        why = search.why if found else "went with its source, of which no row is left"
        detail = f"{why}; erased by {job.erasure}" + (f"; it had been refused as {before}" if before else "")
        return RefusedRow(source, line, RefusalReason.ERASED, detail, "", StepPlace(ERASURE))

    def old() -> Iterator[RefusedRow]:
        for row in _refused(job):
            found = (row.source_index, row.line) in search.refused_origins or row.source_index not in places
            if row.reason is RefusalReason.ERASED or not found:
                yield row
            else:
                erased[row.reason] += 1
                yield gone(row.source_index, row.line, row.reason.value)

    new = (gone(source, line) for source, line in sorted(search.origins.elements()))
    with path.open("wb") as file:
        for row in heapq.merge(old(), new, key=lambda row: (row.source_index, row.line)):
            file.write(refused_line(replace(row, source_index=places.get(row.source_index, SOURCE_GONE))))
    return dict(erased)


def _write_changed(job: EraseRows, erased: Collection[str], places: Mapping[int, int], path: Path) -> Path | None:
    """Writes which of the rows that are left steps had changed; None when there is none."""
    if job.changed is None:
        return None
    with job.changed.open("rb") as old, path.open("wb") as new:
        for row in map(changed_row, map(json.loads, old)):
            if row.row_id not in erased:
                new.write(changed_line(replace(row, source_index=places[row.source_index])))
    return path if path.stat().st_size else None


def _described(texts: leftovers.Texts, job: EraseRows, erased_changed: int) -> LeftTexts:
    reference: list[str] = []
    if any(job.held_out):
        from mainspring_data_ingest.adapters.workshop import reference_answers  # Slow to import, and seldom needed.

        with suppress(InvalidInput):  # It is not what it was.
            reference = reference_answers(texts.recipe, job.held_out, SAMPLE_ROWS)
    before, after = texts.before, texts.after
    samples = before.answers(SAMPLE_ROWS), after.answers(SAMPLE_ROWS), reference
    model = texts.recipe.report_embedding_model_version
    return LeftTexts(erased_changed, before.report(), after.report(), *samples, model)


def holds(job: FindText) -> bool | None:
    """Whether a text is in a file, columns of any name included; None when the file cannot be read as data, and its
    bytes do not show the text either.
    """
    search = _Search(Selector(text=job.text), (), "")
    try:
        source = SourceFile(job.path, job.name, recognised(job.path, job.name, job.name), None)
        with ExitStack() as stack:
            reader, _ = open_source(source, ColumnMapping(), stack)
            return any(search.shows(record) for record in reader.records())
    except InvalidInput:
        return True if search.shows_bytes(job.path) else None


def _refused(job: EraseRows) -> Iterator[RefusedRow]:
    if job.refused is not None:
        with job.refused.open("rb") as file:
            for line in file:
                yield refused_row(json.loads(line))


class _Search:
    """Finds a selector, and remembers where; memory grows with what is found only."""

    def __init__(self, selector: Selector, sources: tuple[str, ...], ingestion: str) -> None:
        self._selector, self._text = selector, folded(selector.text)
        self._ids, self._ingestion = set(selector.row_ids), ingestion
        self._sources = {number for number, digest in enumerate(sources) if digest == selector.source_sha256}
        self.row_ids: set[str] = set()
        self.origins = Counter[Origin]()  # A line of a text may give several rows.
        self.refused_origins: set[Origin] = set()

    @property
    def why(self) -> str:
        """Why something is erased, without what it says."""
        if self._text:
            return "held the text that was looked for"
        return "was asked for by its id" if self._ids else "was made of the document that was looked for"

    def look_at_rows(self, shard: SideShard) -> None:
        """Finds rows; makes sure on the way that they are those which the digest names."""
        hasher = hashlib.sha256()
        for row in rows(shard.path):
            hasher.update(canonical(row).encode() + b"\n")
            if row["source_index"] in self._sources or row["row_id"] in self._ids or self._in(_texts(row)):
                self.row_ids.add(row["row_id"])
                self.origins[row["source_index"], row["line"]] += 1
        if hasher.hexdigest() != shard.rows_sha256:
            message = "a shard does not hold the rows that the manifest names; restore it from a copy"
            raise PreconditionFailed("ROWS_CORRUPT", message)

    def look_at_refused(self, row: RefusedRow) -> None:
        """Finds a refused row; one that is erased already says nothing more."""
        if row.reason is not RefusalReason.ERASED and (
            row.source_index in self._sources or self._in((row.excerpt, row.detail))
        ):
            self.refused_origins.add((row.source_index, row.line))

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
        """Whether the text is in a record; what we wrote into it ourselves says nothing of anybody."""
        if leftovers.note_of(record, self._ingestion):
            return self._in(_texts({key: value for key, value in record.values.items() if key != leftovers.NOTE}))
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
