"""Looking into sources by way of a child process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from mainspring_data_ingest.adapters.jobs import PREVIEW, PREVIEW_JOB, REFUSED, PreviewJob
from mainspring_data_ingest.adapters.scratch import Scratch
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.previews import Preview
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import InsufficientStorage, InvalidInput, Unavailable
from mainspring_svckit.logs import get_logger
from mainspring_svckit.values import ArtifactRef

MODULE = "mainspring_data_ingest.adapters.preview_process"
TIMEOUT_S = 120.0
log = get_logger(__name__)


class ChildPreviewer:
    """`Previewer` by way of a child process for each source."""

    def __init__(self, files: ArtifactStore, scratch: Scratch, *, at_once: int = 2) -> None:
        """Takes the store, where files are brought to, and how many sources are looked into at a time."""
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
            job = PreviewJob(path, artifact.filename or "the source", source_format, columns, shown)
            (folder / "job.json").write_bytes(PREVIEW_JOB.dump_json(job))
            async with self._slots:
                await self._run(folder)
            return PREVIEW.validate_json((folder / "result.json").read_bytes())

    async def _run(self, folder: Path) -> None:
        with (folder / "stderr").open("wb") as stderr:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                MODULE,
                str(folder),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                env={key: value for key, value in os.environ.items() if not key.startswith("MAINSPRING_")},
            )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status = await child.wait()
        except TimeoutError as err:
            message = f"the source was not looked into within {TIMEOUT_S:.0f} s; import it, or upload a part of it"
            raise Unavailable("PREVIEW_FAILED", message) from err
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if status == REFUSED:
            refusal = json.loads((folder / "refusal.json").read_bytes())
            if refusal["reason"] == "INSUFFICIENT_STORAGE":
                raise InsufficientStorage(str(folder.parent))
            raise InvalidInput(refusal["message"], reason=refusal["reason"])
        if status:
            log.error("preview_failed", status=status, stderr=(folder / "stderr").read_text(errors="replace")[-2000:])
            raise Unavailable("PREVIEW_FAILED", "the source could not be looked into; the service's log tells more")
