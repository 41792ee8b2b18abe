"""Refines an ingestion: reads its sources chunk by chunk, has the chunks refined, decides, has the shards written."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from mainspring_data_ingest.adapters.candidates import KEPT, Candidates
from mainspring_data_ingest.adapters.chunks import EXTRAS, ChunkFolder, ChunkInfo
from mainspring_data_ingest.adapters.deciding import Decisions
from mainspring_data_ingest.adapters.executors import Executor
from mainspring_data_ingest.adapters.jobs import Job
from mainspring_data_ingest.adapters.reading import open_source, rows_of
from mainspring_data_ingest.adapters.shards import ShardPlan, WrittenShard, plan
from mainspring_data_ingest.adapters.steps.base import Vectors
from mainspring_data_ingest.adapters.workshop import reference_answers
from mainspring_data_ingest.application.files import changed_line, refused_line
from mainspring_data_ingest.application.ports import Refined, SourceReader
from mainspring_data_ingest.application.refining import RecordChunk, SourceTally
from mainspring_data_ingest.domain.datasets import Tally
from mainspring_data_ingest.domain.measurements import SAMPLE_ROWS
from mainspring_data_ingest.domain.records import (
    EXCERPT_BYTES,
    ChangedRow,
    Record,
    RefusalReason,
    RefusedRow,
    StepPlace,
    excerpt,
)
from mainspring_data_ingest.domain.report import Report, StepCounts, TextReport, TextStatistics
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.errors import InvalidInput

PROGRESS_S = 0.5
CHUNK_ROWS = 4_000
CHUNK_BYTES = 4 << 20
"""Records and bytes of a chunk at most; neither changes what comes out."""
_READING_SHARE = 0.9
"""Part of the whole time that goes by while sources are read, for the time that remains."""
Say = Callable[[dict[str, Any]], None]


class Engine:
    """Does one job."""

    def __init__(
        self, job: Job, folder: Path, refining: Executor, writing: Executor, say: Say, vectors: Vectors | None = None
    ) -> None:
        """Takes the folder for everything, who refines chunks, who writes shards (from the folder, so he is on this
        machine), who hears how far it is, and what makes vectors.
        """
        self._job, self._folder, self._say, self._vectors = job, folder, say, vectors
        self._refining, self._writing = refining, writing
        self._chunks = ChunkFolder(folder / "chunks")
        self._infos: dict[int, ChunkInfo] = {}
        self._before = TextStatistics()
        self._rows = self._read = self._resumed = 0
        self._trouble: tuple[int, InvalidInput] | None = None
        self._started = self._told = time.monotonic()

    def run(self) -> Refined:
        """Does it.

        Raises:
            InvalidInput: A source cannot be used, or no row is left; the message names the source.
            MainspringError: As `Executor.run`.
        """
        self._refine()
        # Those who refined have a good deal in memory, and nothing to do while one process compares all rows.
        self._refining.close()
        infos = [self._infos[number] for number in sorted(self._infos)]
        self._check_sources(infos)
        self._tell("comparing", 1.0)
        candidates = Candidates(self._chunks, infos)
        decisions = Decisions(self._job.recipe, candidates, self._folder, self._vectors)
        decisions.make()
        refusals = Counter(decisions.refusals())
        for info in infos:
            refusals.update(info.refusals)
        self._tell("writing", 1.0)
        refused = self._write_refused(infos, decisions)
        kept = np.flatnonzero(candidates.fate == KEPT)
        if not len(kept):
            raise self._nothing_kept(refusals, refused)
        shards, after = self._write_shards(infos, decisions, kept)
        rows = Counter({split: int((decisions.split[kept] == index).sum()) for index, split in enumerate(Split)})
        tally = Tally({split: rows[split] for split in Split}, dict(sorted(refusals.items())))
        changed = int(np.count_nonzero(candidates.column("changed")[kept]))
        report = self._report(infos, decisions, tally, changed, after)
        return Refined(shards, refused, tally, report, self._write_changed(candidates))

    def _refine(self) -> None:
        with ExitStack() as stack:
            for done in self._refining.run(self._tasks(stack)):
                assert isinstance(done, ChunkInfo)
                self._finished(done)

    def _tasks(self, stack: ExitStack) -> Iterator[RecordChunk]:
        """The chunks that no earlier run has finished."""
        number = place = before = 0
        sizes = [source.path.stat().st_size for source in self._job.sources]
        for index, source in enumerate(self._job.sources):
            try:
                reader, file = open_source(source, source.columns or self._job.recipe.columns, stack)
                # It may be another file than the source's, which is packed.
                whole = max(1, os.fstat(file.fileno()).st_size)
                begins = place
                for records in _chunked(reader):
                    if (info := self._chunks.finished(number)) is not None:
                        self._resumed += 1
                        self._finished(info)
                    else:
                        yield RecordChunk(number, index, place, records)
                    number, place = number + 1, place + len(records)
                    self._read = place
                    share = (place - begins) / rows if (rows := rows_of(reader)) else file.tell() / whole
                    self._tell("reading", (before + sizes[index] * share) / max(1, sum(sizes)))
                before += sizes[index]
            except InvalidInput as err:
                # What came before it is judged first, so that the first trouble is the one that is told.
                self._trouble = index, InvalidInput(f"{source.title} {err.message}", reason=err.reason)
                return

    def _finished(self, info: ChunkInfo) -> None:
        # Its sample of texts is merged at once: kept for every chunk, they would be half of the data.
        self._before.merge(info.before)
        self._infos[info.number] = replace(info, before={})
        self._rows += info.records

    def _check_sources(self, infos: Sequence[ChunkInfo]) -> None:
        tallies = [SourceTally() for _ in self._job.sources]
        for info in infos:
            tally = tallies[info.source_index]
            tally.rows += info.records
            tally.not_utf8 += info.not_utf8
            tally.refusals.update(info.refusals)
            tally.first = tally.first or info.first
        for index, (source, tally) in enumerate(zip(self._job.sources, tallies, strict=True)):
            if self._trouble is not None and self._trouble[0] == index:
                raise self._trouble[1]
            try:
                tally.check()
            except InvalidInput as err:
                raise InvalidInput(f"{source.title} {err.message}", reason=err.reason) from err

    def _write_refused(self, infos: Sequence[ChunkInfo], decisions: Decisions) -> Path | None:
        """Writes all refused rows in input order; None when there is none."""
        path, written = self._folder / "refused.jsonl", 0
        with path.open("wb") as file:
            for chunk, info in enumerate(infos):
                lines = list(self._chunks.refused_lines(info.number)) + self._refused_later(chunk, decisions)
                file.writelines(line for _, line in sorted(lines))
                written += len(lines)
        return path if written else None

    def _refused_later(self, chunk: int, decisions: Decisions) -> list[tuple[int, bytes]]:
        """The refused candidates of a chunk with their places, as lines."""
        found = decisions.details(chunk)
        if not found:
            return []
        raw = decisions.candidates.texts(chunk, "raw")["raw"]
        keys = decisions.candidates.array(chunk, "keys")
        lines: list[tuple[int, bytes]] = []
        for position, reason, detail, step in found:
            key = keys[position]
            shown = excerpt(raw[position].as_py())
            row = RefusedRow(int(key["source"]), int(key["line"]), reason, detail, shown, step)
            lines.append((int(key["place"]), refused_line(row)))
        return lines

    def _write_changed(self, candidates: Candidates) -> Path | None:
        """Writes which kept rows steps have changed, in input order; None when there is none."""
        path, written = self._folder / "changed.jsonl", 0
        places = [StepPlace(step.kind, number) for number, step in enumerate(self._job.recipe.steps, 1)]

        @cache
        def named(bits: int) -> tuple[StepPlace, ...]:
            return tuple([place for bit, place in enumerate(places) if bits >> bit & 1])

        with path.open("wb") as file:
            for chunk, (begin, end) in enumerate(pairwise(candidates.starts.tolist())):
                keys = candidates.array(chunk, "keys")
                positions = np.flatnonzero((candidates.fate[begin:end] == KEPT) & (keys["changed"] != 0))
                if not len(positions):
                    continue
                ids = candidates.texts(chunk, "row_id")["row_id"].take(pa.array(positions)).to_pylist()
                where = zip(*(keys[name][positions].tolist() for name in ("source", "line", "changed")), strict=True)
                file.writelines(
                    changed_line(ChangedRow(source, line, row_id, named(bits)))
                    for (source, line, bits), row_id in zip(where, ids, strict=True)
                )
                written += len(positions)
        return path if written else None

    def _write_shards(
        self, infos: Sequence[ChunkInfo], decisions: Decisions, kept: Any
    ) -> tuple[tuple[Any, ...], TextStatistics]:
        sizes, plans = decisions.candidates.column("bytes"), list[ShardPlan]()
        numbers = [info.number for info in infos]
        extras = tuple([name for name in EXTRAS if decisions.candidates.column(name)[kept].any()])
        for index, split in enumerate(Split):
            rows = kept[decisions.split[kept] == index]
            plans += plan(
                split,
                rows,
                sizes[rows],
                decisions.candidates.starts,
                numbers,
                extras=extras,
                repeats=decisions.repeats[rows] if decisions.repeats is not None else None,
                rows_per_shard=self._job.rows_per_shard,
            )
        after, written = TextStatistics(), dict[tuple[Split, int], WrittenShard]()
        for done in self._writing.run(plans):
            assert isinstance(done, WrittenShard)
            after.merge(done.after)
            written[done.shard.split, done.number] = done
            self._tell("writing", 1.0)
        return tuple(written[planned.split, planned.number].shard for planned in plans), after

    def _report(
        self, infos: Sequence[ChunkInfo], decisions: Decisions, tally: Tally, changed: int, after: TextStatistics
    ) -> Report:
        counts = [decisions.counts.get(number) or StepCounts(s.kind) for number, s in enumerate(self._job.recipe.steps)]
        for info in infos:
            for counted, state in zip(counts, info.steps, strict=True):
                if state is not None:
                    counted.merge(state)
        reference = reference_answers(self._job.recipe, self._job.held_out, SAMPLE_ROWS)
        return Report(
            input_rows=tally.input_rows,
            kept_unchanged=sum(tally.splits.values()) - changed,
            kept_changed=changed,
            refused=dict(tally.refusals),
            steps=tuple(counted.report() for counted in counts),
            before=self._measured("before", self._before, reference),
            after=self._measured("after", after, reference),
        )

    def _measured(self, side: str, texts: TextStatistics, reference: Sequence[str]) -> TextReport:
        """What was gathered, with the diversity of a sample of answers and how near they come to the reference."""
        from mainspring_data_ingest.adapters.measuring import measure  # Slow to import, and needed at the end only.

        answers, model = texts.answers(SAMPLE_ROWS), self._job.recipe.report_embedding_model_version
        if not answers:
            return texts.report()
        vectors: Any = None
        if model:
            assert self._vectors is not None, "who refines a recipe that names a model brings what makes vectors"
            path = self._folder / f"report-{side}.jsonl"
            path.write_bytes(b"".join([orjson.dumps(text) + b"\n" for text in (*answers, *reference)]))
            vectors = np.fromfile(self._vectors(path, model), "<f4").reshape(len(answers) + len(reference), -1)
        return replace(texts.report(), diversity=measure(answers, answers, reference, vectors, model))

    def _nothing_kept(self, refusals: Counter[RefusalReason], refused: Path | None) -> InvalidInput:
        assert refused is not None
        with refused.open("rb") as file:
            first = orjson.loads(file.readline())
        counts = ", ".join(f"{reason.value} {rows}" for reason, rows in sorted(refusals.items()))
        where = f"{self._job.sources[first['source_index']].title} line {first['line']}"
        message = f"every row is refused ({counts}); the first: {where}: {first['detail']}"
        return InvalidInput(message, reason="NO_ROWS_KEPT")

    def _tell(self, phase: str, read: float) -> None:
        """Tells how far it is, now and then; `read` is the share of the sources that is read."""
        now = time.monotonic()
        if phase == "reading" and now - self._told < PROGRESS_S and self._rows:
            return
        self._told = now
        elapsed, share = now - self._started, read * _READING_SHARE
        remaining = elapsed * (1 - share) / share if elapsed > 1 and share else None
        # While sources are read, an estimate by what is read of them.
        total = self._rows if phase != "reading" else max(self._rows, round(self._read / read)) if read else 0
        said = {"rows": self._rows, "total": total, "phase": phase, "remaining_s": remaining}
        self._say({**said, "resumed_chunks": self._resumed})


def _chunked(reader: SourceReader) -> Iterator[list[Record]]:
    """A source's records, so many at a time. Where chunks end follows from the records alone."""
    records: list[Record] = []
    size = 0
    for record in reader.records():
        size += len(record.raw)
        if len(record.raw) > EXCERPT_BYTES:
            record = Record(record.line, record.raw[:EXCERPT_BYTES], record.values, record.problem)
        records.append(record)
        if len(records) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield records
            records, size = [], 0
    if records:
        yield records
