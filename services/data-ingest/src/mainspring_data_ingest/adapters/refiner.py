"""Refining in a child process: a bad file can neither block nor bloat nor end the service, and a kill stops it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mainspring_data_ingest.adapters.jobs import JOB, REFUSED, RESULT, Job, SourceFile
from mainspring_data_ingest.adapters.scratch import Scratch
from mainspring_data_ingest.application.ports import OnProgress, Refined
from mainspring_data_ingest.domain.ingestions import Ingestion, Source
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.crash import crash_point
from mainspring_svckit.errors import InsufficientStorage, InvalidInput, MainspringError, Unavailable
from mainspring_svckit.logs import get_logger
from mainspring_svckit.names import IngestionName
from mainspring_svckit.values import Progress

MODULE = "mainspring_data_ingest.adapters.refining_process"
log = get_logger(__name__)


class ChildRefiner:
    """`Refiner` by way of a child process for each ingestion."""

    def __init__(self, files: ArtifactStore, scratch: Scratch) -> None:
        self._files, self._scratch = files, scratch

    @asynccontextmanager
    async def refine(self, work: Ingestion, on_progress: OnProgress) -> AsyncIterator[Refined]:
        with self._scratch.folder() as folder:
            sources = [await self._fetch(work, index, source, folder) for index, source in enumerate(work.sources)]
            (folder / "job.json").write_bytes(JOB.dump_json(Job(work.recipe, tuple(sources))))
            await self._run(folder, on_progress)
            yield RESULT.validate_json((folder / "result.json").read_bytes())

    async def _fetch(self, work: Ingestion, index: int, source: Source, folder: Path) -> SourceFile:
        project = IngestionName.parse(work.name).project
        path = await self._files.fetch(project, source.artifact, folder / f"source-{index}")
        name = source.artifact.filename
        title = f"source {index}" + (f" ({name!r})" if name else "")
        return SourceFile(path, title, source.format, source.columns)

    async def _run(self, folder: Path, on_progress: OnProgress) -> None:
        # Standard error goes to a file: nobody reads it while the process runs. The child gets none of our secrets.
        with (folder / "stderr").open("wb") as stderr:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                MODULE,
                str(folder),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env={key: value for key, value in os.environ.items() if not key.startswith("MAINSPRING_")},
            )
        last: dict[str, Any] = {}
        try:
            assert child.stdout is not None
            async for line in child.stdout:
                last = json.loads(line)
                if "rows" in last:
                    progress = Progress(
                        done=last["rows"], unit="rows", phase="reading", remaining_s=last["remaining_s"]
                    )
                    await on_progress(progress)
                    crash_point("ingestion:mid-shards")
            await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            raise _failure(child.returncode, last, folder)


def _failure(status: int, last: dict[str, Any], folder: Path) -> MainspringError:
    if status == REFUSED:
        if last["reason"] == "INSUFFICIENT_STORAGE":
            return InsufficientStorage(str(folder.parent))
        return InvalidInput(last["message"], reason=last["reason"])
    log.error("refining_failed", status=status, stderr=(folder / "stderr").read_text(errors="replace")[-2000:])
    return Unavailable(
        "REFINING_FAILED", f"the refining process ended with status {status}; the service's log tells more"
    )
