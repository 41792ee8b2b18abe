"""A process that refines one ingestion: `python -m mainspring_data_ingest.adapters.refining_process FOLDER`.

`FOLDER/job.json` says what to do; shards and `result.json` are written beside it. Progress goes to standard output as
JSON lines. Exit status 2 means that the sources or the disk are to blame; the last line then says why. The process ends
with its parent, whose end of the pipe it holds as standard input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from mainspring_data_ingest.adapters import steps
from mainspring_data_ingest.adapters.jobs import JOB, REFUSED, RESULT, Job, SourceFile
from mainspring_data_ingest.adapters.reading import open_source
from mainspring_data_ingest.adapters.scratch import no_space
from mainspring_data_ingest.adapters.shards import Shards
from mainspring_data_ingest.application.ports import Refined, Step
from mainspring_data_ingest.application.refining import OpenSource, Refinery
from mainspring_data_ingest.domain.records import RowRefused
from mainspring_data_ingest.domain.rows import Draft, ExampleMaker
from mainspring_svckit.errors import InvalidInput, MainspringError

PROGRESS_S = 0.5
_NICENESS = 5


class _Progress:
    """Tells the parent how far it is, now and then."""

    def __init__(self, files: Sequence[Any], total_bytes: int) -> None:
        self._files, self._total = files, max(1, total_bytes)
        self._rows = 0
        self._started = self._told = time.monotonic()

    def row(self) -> None:
        """One row more is done."""
        self._rows += 1
        if self._rows % 500 == 1 and (self._rows == 1 or time.monotonic() - self._told > PROGRESS_S):
            self.tell()

    def tell(self) -> None:
        """Tells it now."""
        self._told = time.monotonic()
        share = sum(file.tell() for file in self._files) / self._total
        elapsed = self._told - self._started
        _say({"rows": self._rows, "remaining_s": elapsed * (1 - share) / share if elapsed > 1 and share else None})


def refine(job: Job, folder: Path) -> Refined:
    """Does the job into `folder`.

    Raises:
        InvalidInput: A source cannot be used.
        InsufficientStorage: The disk is full.
    """
    with ExitStack() as stack, no_space(str(folder)):
        at_work = _steps(job)
        opened: list[OpenSource] = []
        files: list[BinaryIO] = []
        for source in job.sources:
            reader, file = open_source(source, source.columns or job.recipe.columns, stack)
            opened.append(OpenSource(source.title, reader, source.columns))
            files.append(file)
        progress = _Progress(files, sum(os.fstat(file.fileno()).st_size for file in files))
        with Shards(folder, rows_per_shard=job.rows_per_shard) as sink:
            tally, report = Refinery(job.recipe, sink, at_work).run(opened, progress.row)
            shards, refused = sink.finish()
        progress.tell()
    return Refined(shards, refused, tally, report)


def _steps(job: Job) -> list[Step]:
    held_out = job.held_out or ((),) * len(job.recipe.steps)
    return [steps.build(step, _examples(files, job)) for step, files in zip(job.recipe.steps, held_out, strict=True)]


def _examples(files: Sequence[SourceFile], job: Job) -> Iterator[Draft]:
    """The examples of an evaluation set. Rows that are none are passed over; a file without any cannot be meant."""
    for source in files:
        columns = source.columns or job.recipe.columns
        maker, found = ExampleMaker(job.recipe, columns), 0
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
            message = (
                f"{source.title} has no examples in columns {', '.join(columns.required)}; give the step its columns"
            )
            raise InvalidInput(message, reason="EVALUATION_SET_EMPTY")


def main() -> int:
    """Runs in the child."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(_NICENESS)  # Answers to callers come before batch work.
    try:
        with no_space(str(folder)):
            refined = refine(JOB.validate_json((folder / "job.json").read_bytes()), folder)
            (folder / "result.json").write_bytes(RESULT.dump_json(refined))
    except MainspringError as err:
        _say({"reason": err.reason, "message": err.message})
        return REFUSED
    except Exception as err:  # noqa: BLE001 - the parent reports it; the message may quote data, so it stays out.
        frames = "".join(traceback.format_tb(err.__traceback__)[-3:])
        sys.stderr.write(f"{frames}{type(err).__name__}\n")
        return 1
    return 0


def _say(body: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(body) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    # Not by way of `sys.stdin`, whose lock this thread would still hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
