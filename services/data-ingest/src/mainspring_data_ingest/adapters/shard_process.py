"""A process that works on shards: `python -m mainspring_data_ingest.adapters.shard_process FOLDER`.

`FOLDER/job.json` says what to do; results are written beside it. Exit status 2 means that shards or the disk are to
blame; `error.json` says why. The process ends with its parent, whose end of the pipe it holds as standard input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path

from mainspring_data_ingest.adapters.comparing import compare
from mainspring_data_ingest.adapters.erasing import erase
from mainspring_data_ingest.adapters.jobs import REFUSED
from mainspring_data_ingest.adapters.scratch import no_space
from mainspring_data_ingest.adapters.shard_jobs import (
    COUNTS,
    LEFTOVERS,
    SHARD_JOB,
    CompareSides,
    EraseRows,
    ReadRows,
    ShardJob,
)
from mainspring_data_ingest.adapters.shard_rows import canonical, rows
from mainspring_svckit.errors import MainspringError


def work(job: ShardJob, folder: Path) -> None:
    """Does a job.

    Raises:
        InsufficientStorage: The disk is full.
    """
    with no_space(str(folder)):
        match job:
            case ReadRows():
                _read_rows(job, folder / "rows.jsonl")
            case CompareSides():
                counts = compare(job.base, job.target, folder, folder / "changes.jsonl")
                (folder / "result.json").write_bytes(COUNTS.dump_json(counts))
            case EraseRows():
                (folder / "result.json").write_bytes(LEFTOVERS.dump_json(erase(job, folder)))


def _read_rows(job: ReadRows, target: Path) -> None:
    """Writes rows until there are enough of them; one always, however long it is."""
    skip, count, size = job.skip, 0, 0
    with target.open("wb") as file:
        for shard in job.shards:
            for row in rows(shard.path, skip):
                line = canonical({**row, "split": shard.split} if job.with_split else row).encode() + b"\n"
                size += len(line)
                if count == job.count or (count and size > job.max_bytes):
                    return
                file.write(line)
                count += 1
            skip = 0


def main() -> int:
    """Runs in the child."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(5)  # Answers to callers come before batch work.
    try:
        work(SHARD_JOB.validate_json((folder / "job.json").read_bytes()), folder)
    except MainspringError as err:
        (folder / "error.json").write_text(json.dumps({"reason": err.reason, "message": err.message}))
        return REFUSED
    except Exception as err:  # noqa: BLE001 - the parent reports it; the message may quote data, so it stays out.
        frames = "".join(traceback.format_tb(err.__traceback__)[-3:])
        sys.stderr.write(f"{frames}{type(err).__name__}\n")
        return 1
    return 0


def _end_with_parent() -> None:
    # Not by way of `sys.stdin`, whose lock this thread would still hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Without the interpreter's end: Arrow's threads may still be there, and end it with a segmentation fault.
    os._exit(status)
