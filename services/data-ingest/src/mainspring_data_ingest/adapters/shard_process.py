"""A process that works on shards: `python -m mainspring_data_ingest.adapters.shard_process FOLDER`.

`FOLDER/job.json` says what to do; results are written beside it. Exit status 2 means that shards or the disk are to
blame; `error.json` says why. The process ends with its parent, whose end of the pipe it holds as standard input.
"""

from __future__ import annotations

import heapq
import json
import os
import sys
import threading
import traceback
from pathlib import Path

from mainspring_data_ingest.adapters.comparing import compare
from mainspring_data_ingest.adapters.erasing import erase, holds
from mainspring_data_ingest.adapters.jobs import REFUSED
from mainspring_data_ingest.adapters.shard_jobs import (
    COUNTS,
    LEFTOVERS,
    MEASUREMENT,
    SHARD_JOB,
    CompareSides,
    EraseRows,
    FindText,
    MeasureTexts,
    NameColumns,
    ReadRows,
    SampleRows,
    ShardJob,
)
from mainspring_data_ingest.adapters.shard_rows import batches, canonical, columns, rows
from mainspring_svckit.errors import MainspringError
from mainspring_svckit.scratch import no_space

SAMPLE_CHARACTERS = 1_000


def work(job: ShardJob, folder: Path) -> None:
    """Does a job.

    Raises:
        InsufficientStorage: The disk is full.
    """
    with no_space(str(folder)):
        match job:
            case ReadRows():
                _read_rows(job, folder / "rows.jsonl")
            case NameColumns():
                (folder / "result.json").write_text(json.dumps(columns(job.path)))
            case CompareSides():
                counts = compare(job.base, job.target, folder, folder / "changes.jsonl")
                (folder / "result.json").write_bytes(COUNTS.dump_json(counts))
            case EraseRows():
                (folder / "result.json").write_bytes(LEFTOVERS.dump_json(erase(job, folder)))
            case FindText():
                (folder / "result.json").write_text(json.dumps(holds(job)))
            case SampleRows():
                (folder / "sample.json").write_text(json.dumps(_sample(job)))
            case MeasureTexts():
                # Slow to import, and needed here only.
                from mainspring_data_ingest.adapters.measuring import measure

                found = measure(job.answers, job.texts, job.reference, job.vectors, job.model)
                (folder / "result.json").write_bytes(MEASUREMENT.dump_json(found))


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


def _sample(job: SampleRows) -> list[tuple[str, str]]:
    """Rows by the order of their ids."""
    ids = (i for s in job.shards for batch in batches(s.path, ["row_id"]) for i in batch.column(0).to_pylist())
    wanted = set(heapq.nsmallest(job.count, ids))
    found: list[tuple[str, str, str]] = []
    for shard in job.shards:
        for batch in batches(shard.path, ["row_id", "messages"]):
            places = [place for place, i in enumerate(batch.column("row_id").to_pylist()) if i in wanted]
            for row in batch.take(places).to_pylist() if places else ():
                contents = [message["content"] for message in row["messages"]]
                text = "\n".join(contents)
                found.append((row["row_id"], contents[-1][:SAMPLE_CHARACTERS], text[-SAMPLE_CHARACTERS:]))
    return [(answer, text) for _, answer, text in sorted(found)]


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
