"""What is done to an ingestion piece by piece, by any process that has the job: refine a chunk, write a shard."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from mainspring_data_ingest.adapters import shards, steps
from mainspring_data_ingest.adapters.chunks import ChunkFolder, ChunkInfo, Files, encode
from mainspring_data_ingest.adapters.jobs import HeldOutFiles, Job, SourceFile
from mainspring_data_ingest.adapters.reading import open_source
from mainspring_data_ingest.adapters.shards import ShardPlan, WrittenShard
from mainspring_data_ingest.adapters.steps.base import Probe
from mainspring_data_ingest.application.refining import RecordChunk, RowRefinery
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import RowRefused
from mainspring_data_ingest.domain.report import SAMPLE_CHARACTERS
from mainspring_data_ingest.domain.rows import Draft, ExampleMaker
from mainspring_data_ingest.domain.steps import Decontamination, ReferenceExamples, TextPart
from mainspring_svckit.errors import InvalidInput

Task = RecordChunk | ShardPlan
Done = ChunkInfo | WrittenShard


class Workshop:
    """Does the tasks of one job, one after the other."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self._folder = job, folder
        self.chunks = ChunkFolder(folder / "chunks")

    def do(self, task: Task) -> Done:
        """Does a task; what comes of it lies in the folder.

        Raises:
            InvalidInput: A step's evaluation set cannot be used.
            OSError: The disk is full, or fails.
        """
        if isinstance(task, RecordChunk):
            return self.chunks.put(task.number, self.refined(task))
        return shards.write(self._folder, self.chunks, task)

    def refined(self, chunk: RecordChunk) -> Files:
        """A chunk's files, which are not written yet."""
        made = self._refinery.refine(chunk)
        probed = {
            position: probe.probe(made.candidates, [candidate.seen[turn] for candidate in made.candidates])
            for turn, (position, probe) in enumerate(self._probes)
        }
        return encode(chunk, made, probed)

    @cached_property
    def _refinery(self) -> RowRefinery:
        job = self._job
        held_out = job.held_out or ((),) * len(job.recipe.steps)
        built = [
            steps.build(step, examples(files, job.recipe), [file.path for file in files])
            for step, files in zip(job.recipe.steps, held_out, strict=False)  # What follows is for the report.
        ]
        synthetic = [index for index, source in enumerate(job.sources) if source.synthetic]
        return RowRefinery(job.recipe, [source.columns for source in job.sources], built, synthetic)

    @cached_property
    def _probes(self) -> list[tuple[int, Probe]]:
        probes = [(position, steps.probe(step)) for position, step in enumerate(self._job.recipe.steps)]
        return [(position, probe) for position, probe in probes if probe is not None]


def reference_answers(recipe: IngestionRecipe, held_out: HeldOutFiles, count: int) -> list[str]:
    """Answers of what the data is for: so many of the recipe's reference examples, or else of the first evaluation set
    that it keeps out, those with the smallest checksums; none when it has neither.
    """
    wanted = Decontamination if recipe.reference is None else ReferenceExamples
    for part, files in zip(recipe.parts, held_out, strict=False):
        if isinstance(part, wanted) and files:
            texts = (draft.text(TextPart.ANSWER)[:SAMPLE_CHARACTERS] for draft in examples(files, recipe))
            return [text for _, text in heapq.nsmallest(count, ((zlib.crc32(t.encode()), t) for t in texts if t))]
    return []


def examples(files: Sequence[SourceFile], recipe: IngestionRecipe) -> Iterator[Draft]:
    """The examples of an evaluation set. Rows that are none are passed over; a file without any cannot be meant."""
    for source in files:
        columns = source.columns or recipe.columns
        maker, found = ExampleMaker(recipe, columns), 0
        with ExitStack() as stack:
            try:
                reader, _ = open_source(source, columns, stack)
                for record in reader.records():
                    try:
                        draft = maker.draft(record.values)
                    except RowRefused:
                        continue
                    found += 1
                    yield draft
            except InvalidInput as err:
                raise InvalidInput(f"{source.title} {err.message}", reason=err.reason) from err
        if not found:
            message = f"{source.title} has no examples in columns {', '.join(columns.required)}; name its columns"
            raise InvalidInput(message, reason="EVALUATION_SET_EMPTY")
