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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mainspring_data_ingest.adapters.csv_reader import CsvReader
from mainspring_data_ingest.adapters.jobs import JOB, REFUSED, RESULT, Job
from mainspring_data_ingest.adapters.jsonl import JsonlReader
from mainspring_data_ingest.adapters.scratch import no_space
from mainspring_data_ingest.adapters.shards import Shards
from mainspring_data_ingest.application.ports import Refined
from mainspring_data_ingest.application.refining import OpenSource, Refinery
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_svckit.errors import MainspringError

PROGRESS_S = 0.5
_NICENESS = 5
_READERS = {SourceFormat.JSONL: JsonlReader, SourceFormat.CSV: CsvReader}


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
        files = [stack.enter_context(source.path.open("rb")) for source in job.sources]
        progress = _Progress(files, sum(source.path.stat().st_size for source in job.sources))
        opened: list[OpenSource] = []
        for source, file in zip(job.sources, files, strict=True):
            columns = source.columns or job.recipe.columns
            opened.append(OpenSource(source.title, _READERS[source.format](file, columns.mapped), source.columns))
        with Shards(folder, rows_per_shard=job.rows_per_shard) as sink:
            tally = Refinery(job.recipe, sink).run(opened, progress.row)
            shards, refused = sink.finish()
        progress.tell()
    return Refined(shards, refused, tally)


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
