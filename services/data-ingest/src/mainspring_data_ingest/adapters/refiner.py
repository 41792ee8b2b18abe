"""Refining in a child process: a bad file can neither block nor bloat nor end the service, and a kill stops it."""

from __future__ import annotations

import hashlib
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mainspring_data_ingest.adapters import children
from mainspring_data_ingest.adapters.jobs import CLUSTER_UNREACHABLE, JOB, REFUSED, RESULT, Job, SourceFile
from mainspring_data_ingest.adapters.step_files import fetch_step_files
from mainspring_data_ingest.adapters.vectors import embed_file
from mainspring_data_ingest.application.embedding import Embeddings, embed_texts
from mainspring_data_ingest.application.ports import OnProgress, Refined, StepFiles
from mainspring_data_ingest.domain.ingestions import Ingestion, Source
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.crash import crash_point
from mainspring_svckit.errors import MainspringError, PreconditionFailed, Unavailable
from mainspring_svckit.logs import get_logger
from mainspring_svckit.names import IngestionName
from mainspring_svckit.scratch import Scratch
from mainspring_svckit.values import Progress

MODULE = "mainspring_data_ingest.adapters.refining_process"
log = get_logger(__name__)


class ChildRefiner:
    """`Refiner` by way of a child process for each ingestion."""

    def __init__(
        self,
        files: ArtifactStore,
        scratch: Scratch,
        embeddings: Embeddings | None = None,
        *,
        ray_address: str = "",
        memory_bytes: int = 0,
    ) -> None:
        """Takes the store, where to work, what makes vectors (without it recipes that need some are refused), the Ray
        cluster that refines, if one does, and the memory that each process may take.
        """
        self._files, self._scratch, self._embeddings = files, scratch, embeddings
        self._ray_address, self._memory_bytes = ray_address, memory_bytes

    @asynccontextmanager
    async def refine(
        self, work: Ingestion, files: Mapping[int, StepFiles], on_progress: OnProgress
    ) -> AsyncIterator[Refined]:
        await self._check_embedder(work)
        with self._scratch.folder(_key(work, files)) as folder:
            sources = [await self._fetch(work, index, source, folder) for index, source in enumerate(work.sources)]
            project = IngestionName.parse(work.name).project
            held_out = await fetch_step_files(self._files, project, work.recipe.parts, files, folder)
            job = Job(
                work.recipe,
                tuple(sources),
                held_out=held_out,
                ray_address=self._ray_address,
                memory_bytes=self._memory_bytes,
            )
            (folder / "job.json").write_bytes(JOB.dump_json(job))
            await self._run(work, folder, on_progress)
            yield RESULT.validate_json((folder / "result.json").read_bytes())

    async def _fetch(self, work: Ingestion, index: int, source: Source, folder: Path) -> SourceFile:
        project = IngestionName.parse(work.name).project
        path = await self._files.fetch(project, source.artifact, folder / f"source-{index}")
        name = source.artifact.filename
        title = f"source {index}" + (f" ({name!r})" if name else "")
        shown = name or f"source {index}"
        return SourceFile(path, title, source.format, source.columns, shown, source.synthetic)

    async def _run(self, work: Ingestion, folder: Path, on_progress: OnProgress) -> None:
        # Standard error goes to a file: nobody reads it while the process runs.
        with (folder / "stderr").open("wb") as stderr:
            child = await children.start(MODULE, folder, stdin=PIPE, stdout=PIPE, stderr=stderr)
        last: dict[str, Any] = {}
        progress, resumed = Progress(unit="rows"), 0
        try:
            assert child.stdout is not None
            async for line in child.stdout:
                last = json.loads(line)
                if "embed" in last:
                    await on_progress(replace(progress, phase="embedding", remaining_s=None))
                    await self._embed(work, folder, last)
                    assert child.stdin is not None
                    child.stdin.write(b"\n")
                    await child.stdin.drain()
                if "rows" in last:
                    done, total = last["rows"], last["total"]
                    progress = Progress(done, total, "rows", last["phase"], last["remaining_s"])
                    await on_progress(progress)
                    if last["resumed_chunks"] > resumed == 0:
                        log.info("refining_resumed", ingestion=work.name)
                    resumed = last["resumed_chunks"]
                    crash_point("ingestion:mid-shards")
            await child.wait()
        finally:
            await children.end(child)
        if child.returncode:
            raise self._failure(child.returncode, last, folder)

    def _failure(self, status: int, last: dict[str, Any], folder: Path) -> MainspringError:
        if status == children.OUT_OF_MEMORY:
            return children.out_of_memory(self._memory_bytes)
        if status == REFUSED:
            if last["reason"] == CLUSTER_UNREACHABLE:
                return Unavailable(last["reason"], last["message"])
            return children.refusal(last, folder)
        log.error("refining_failed", status=status, stderr=(folder / "stderr").read_text(errors="replace")[-2000:])
        hint = "it may have run out of memory, and " if children.may_lack_memory(status) else ""
        message = f"the refining process {children.ended(status)}; {hint}the service's log tells more"
        return Unavailable("REFINING_FAILED", message)

    async def _check_embedder(self, work: Ingestion) -> None:
        """Sees before the work begins that vectors can be had where the recipe needs them."""
        project = IngestionName.parse(work.name).project
        for model in work.recipe.embedding_models:
            if self._embeddings is None:
                message = (
                    f"vectors of {model} need MAINSPRING_EMBEDDER_ADDRESS of data-ingest; set it, or name no model"
                )
                raise PreconditionFailed("EMBEDDER_NOT_CONFIGURED", message)
            await embed_texts(self._embeddings, project, model, ["ready?"])

    async def _embed(self, work: Ingestion, folder: Path, asked: Mapping[str, Any]) -> None:
        assert self._embeddings is not None, "looked at before the process was started"
        project = IngestionName.parse(work.name).project
        await embed_file(self._embeddings, project, asked["model"], folder / asked["embed"])


def _key(work: Ingestion, files: Mapping[int, StepFiles]) -> str:
    """Names all that chunks depend on, so that only the same work goes on where it was ended."""
    parts = [version("mainspring-data-ingest"), work.name, work.recipe.applied_sha256()]
    parts += [f"{source.artifact.sha256} {source.format} {source.columns}" for source in work.sources]
    parts += [f"synthetic {number}" for number, source in enumerate(work.sources) if source.synthetic]
    parts += [f"{number} {files[number]}" for number in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
