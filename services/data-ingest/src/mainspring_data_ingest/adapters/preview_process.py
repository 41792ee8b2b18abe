"""A process that looks into one source: `python -m mainspring_data_ingest.adapters.preview_process FOLDER`.

`FOLDER/job.json` says what to do, `result.json` is written beside it. Exit status 2 means that the source or the disk
is to blame; `refusal.json` then says why. Status 3 means that the process needed more memory than it may take.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path

from mainspring_data_ingest.adapters.children import OUT_OF_MEMORY, limit_memory
from mainspring_data_ingest.adapters.jobs import PREVIEW, PREVIEW_JOB, REFUSED, PreviewJob, SourceFile
from mainspring_data_ingest.adapters.reading import open_source
from mainspring_data_ingest.adapters.recognition import recognised
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.previews import Preview, preview
from mainspring_svckit.errors import InvalidInput, MainspringError
from mainspring_svckit.scratch import no_space


def look(job: PreviewJob) -> Preview:
    """What a source would give.

    Raises:
        InvalidInput: It cannot be read.
    """
    found = job.format or recognised(job.path, job.name, job.name)
    source = SourceFile(job.path, job.name, found, job.columns, job.name)
    with ExitStack() as stack:
        try:
            reader, _ = open_source(source, job.columns or ColumnMapping(), stack)
            return preview(found, reader.records(), job.columns, job.shown)
        except InvalidInput as err:
            raise InvalidInput(f"{job.name} {err.message}", reason=err.reason) from err


def main() -> int:
    """Runs in the child."""
    folder = Path(sys.argv[1])
    os.nice(5)  # Answers to callers come before batch work.
    try:
        with no_space(str(folder)):
            job = PREVIEW_JOB.validate_json((folder / "job.json").read_bytes())
            limit_memory(job.memory_bytes)
            found = look(job)
            (folder / "result.json").write_bytes(PREVIEW.dump_json(found))
    except MemoryError:
        return OUT_OF_MEMORY
    except MainspringError as err:
        (folder / "refusal.json").write_text(json.dumps({"reason": err.reason, "message": err.message}))
        return REFUSED
    except Exception as err:  # noqa: BLE001 - the parent reports it; the message may quote data, so it stays out.
        sys.stderr.write("".join(traceback.format_tb(err.__traceback__)[-3:]) + type(err).__name__ + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
