"""A process that refines one ingestion: `python -m mainspring_data_ingest.adapters.refining_process FOLDER`.

`FOLDER/job.json` says what to do; shards and `result.json` are written beside it. Progress goes to standard output as
JSON lines. Exit status 2 means that the sources or the disk are to blame; the last line then says why. Status 3 means
that the process needed more memory than it may take. It ends with its parent, whose end of the pipe it holds as
standard input.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mainspring_data_ingest.adapters.children import OUT_OF_MEMORY, collect_rarely, limit_memory
from mainspring_data_ingest.adapters.engine import Engine, Say
from mainspring_data_ingest.adapters.executors import Executor, Inline, Processes
from mainspring_data_ingest.adapters.jobs import JOB, REFUSED, RESULT, Job
from mainspring_data_ingest.adapters.steps.base import Vectors
from mainspring_data_ingest.adapters.vectors import AskedVectors
from mainspring_data_ingest.adapters.workshop import Workshop
from mainspring_data_ingest.application.ports import Refined
from mainspring_svckit.errors import MainspringError
from mainspring_svckit.scratch import no_space

SMALL_BYTES = 4 << 20
"""Sources up to this size are done by this process alone: others take a second to start, a cluster some to reach."""
_NICENESS = 5
_answers: SimpleQueue[bytes] = SimpleQueue()
"""What the parent writes: a byte when that is done which it was asked for."""


def refine(job: Job, folder: Path, say: Say | None = None, vectors: Vectors | None = None) -> Refined:
    """Does the job into `folder`; `say` hears how far it is, `vectors` makes vectors where a step needs them.

    Raises:
        InvalidInput: A source cannot be used.
        InsufficientStorage: The disk is full.
    """
    _forget_others(job, folder)
    size = sum(source.path.stat().st_size for source in job.sources)
    count = job.processes or len(os.sched_getaffinity(0))
    own: Executor = Inline(Workshop(job, folder))
    if count > 1 and size > SMALL_BYTES:
        (folder / "job.json").write_bytes(JOB.dump_json(job))
        own = Processes(folder, count)
    with ExitStack() as stack, no_space(str(folder)):
        refining = stack.enter_context(closing(own))
        if job.ray_address and size > SMALL_BYTES:
            from mainspring_data_ingest.adapters.cluster import Cluster  # Ray is an extra.

            refining = stack.enter_context(closing(Cluster(job, folder, job.ray_address)))
        return Engine(job, folder, refining, own, say or (lambda _: None), vectors).run()


def _forget_others(job: Job, folder: Path) -> None:
    """Removes chunks of another job."""
    stamp = folder / "chunks-of"
    digest = hashlib.sha256(JOB.dump_json(replace(job, processes=0, ray_address="", memory_bytes=0))).hexdigest()
    if stamp.exists() and stamp.read_text() != digest:
        shutil.rmtree(folder / "chunks", ignore_errors=True)
    stamp.write_text(digest)


def main() -> int:
    """Runs in the child."""
    folder, progress = Path(sys.argv[1]), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print is no progress.

    def say(body: Mapping[str, Any]) -> None:
        progress.write(json.dumps(body) + "\n")
        progress.flush()

    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(_NICENESS)  # Answers to callers come before batch work.
    try:
        with no_space(str(folder)):
            job = JOB.validate_json((folder / "job.json").read_bytes())
            limit_memory(job.memory_bytes)
            collect_rarely()
            refined = refine(job, folder, say, AskedVectors(say, _answers.get))
            (folder / "result.json").write_bytes(RESULT.dump_json(refined))
    except MemoryError:
        return OUT_OF_MEMORY
    except MainspringError as err:
        say({"reason": err.reason, "message": err.message})
        return REFUSED
    except Exception as err:  # noqa: BLE001 - the parent reports it; the message may quote data, so it stays out.
        frames = "".join(traceback.format_tb(err.__traceback__)[-3:])
        sys.stderr.write(f"{frames}{type(err).__name__}\n")
        return 1
    return 0


def _end_with_parent() -> None:
    # Not by way of `sys.stdin`, whose lock this thread would still hold when the interpreter ends.
    while answer := os.read(0, 1):
        _answers.put(answer)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
