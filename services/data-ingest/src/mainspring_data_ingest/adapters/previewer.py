"""Looking into sources by way of a child process."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import DEVNULL
from pathlib import Path

from mainspring_data_ingest.adapters import children
from mainspring_data_ingest.adapters.jobs import PREVIEW, PREVIEW_JOB, REFUSED, PreviewJob
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.previews import Preview
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.logs import get_logger
from mainspring_svckit.scratch import Scratch
from mainspring_svckit.values import ArtifactRef

MODULE = "mainspring_data_ingest.adapters.preview_process"
TIMEOUT_S = 120.0
log = get_logger(__name__)


class ChildPreviewer:
    """`Previewer` by way of a child process for each source."""

    def __init__(self, files: ArtifactStore, scratch: Scratch, *, at_once: int = 2, memory_bytes: int = 0) -> None:
        """Takes the store, where files are brought to, how many sources are looked into at a time, and the memory that
        each process may take.
        """
        self._memory_bytes = memory_bytes
        self._files, self._scratch, self._slots = files, scratch, asyncio.Semaphore(at_once)

    async def preview(
        self,
        project: str,
        artifact: ArtifactRef,
        source_format: SourceFormat | None,
        columns: ColumnMapping | None,
        shown: int,
    ) -> Preview:
        """See `Previewer`."""
        with self._scratch.folder() as folder:
            path = await self._files.fetch(project, artifact, folder / "source")
            job = PreviewJob(path, artifact.filename or "the source", source_format, columns, shown, self._memory_bytes)
            (folder / "job.json").write_bytes(PREVIEW_JOB.dump_json(job))
            async with self._slots:
                await self._run(folder)
            return PREVIEW.validate_json((folder / "result.json").read_bytes())

    async def _run(self, folder: Path) -> None:
        with (folder / "stderr").open("wb") as stderr:
            child = await children.start(MODULE, folder, stdin=DEVNULL, stdout=DEVNULL, stderr=stderr)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status = await child.wait()
        except TimeoutError as err:
            message = f"the source was not looked into within {TIMEOUT_S:.0f} s; import it, or upload a part of it"
            raise Unavailable("PREVIEW_FAILED", message) from err
        finally:
            await children.end(child)
        if status == REFUSED:
            raise children.refusal(json.loads((folder / "refusal.json").read_bytes()), folder)
        if status == children.OUT_OF_MEMORY:
            raise children.out_of_memory(self._memory_bytes)
        if status:
            log.error("preview_failed", status=status, stderr=(folder / "stderr").read_text(errors="replace")[-2000:])
            raise Unavailable("PREVIEW_FAILED", "the source could not be looked into; the service's log tells more")
