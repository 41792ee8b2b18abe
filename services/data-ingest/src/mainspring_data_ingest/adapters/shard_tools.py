"""Work on shards in a child process: Arrow stays out of the service, and a bad file harms nobody."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from mainspring_data_ingest.adapters import children
from mainspring_data_ingest.adapters import shard_jobs as jobs
from mainspring_data_ingest.adapters.jobs import REFUSED, HeldOutFiles, SourceFile
from mainspring_data_ingest.adapters.step_files import fetch_step_files
from mainspring_data_ingest.application.version_ports import MAX_PAGE_BYTES, Compared, Leftovers, Sought
from mainspring_data_ingest.domain.datasets import Shard
from mainspring_data_ingest.domain.ingestions import Source
from mainspring_data_ingest.domain.manifests import Manifest
from mainspring_data_ingest.domain.measurements import Measurement
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import InsufficientStorage, InvalidInput, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.logs import get_logger
from mainspring_svckit.scratch import Scratch
from mainspring_svckit.values import ArtifactRef

MODULE = "mainspring_data_ingest.adapters.shard_process"
EVERYTHING = 1 << 62
log = get_logger(__name__)


class ChildShardTools:
    """`ShardTools` by way of a child process for each job."""

    def __init__(self, files: ArtifactStore, scratch: Scratch, *, at_once: int = 2) -> None:
        """Takes the store, where files are brought to, and how many jobs run at a time."""
        self._files, self._scratch, self._slots = files, scratch, asyncio.Semaphore(at_once)

    async def rows(self, project: str, shards: Sequence[Shard], skip: int, count: int) -> list[dict[str, Any]]:
        """See `ShardTools`."""
        with self._scratch.folder() as folder:
            wanted: list[Shard] = []
            before = skip
            for shard in shards:
                if before >= shard.rows and not wanted:
                    before -= shard.rows
                elif sum(s.rows for s in wanted) < before + count:
                    wanted.append(shard)
            local = await self._local(project, wanted, folder, "shard")
            await self._run(jobs.ReadRows(local, before, count, MAX_PAGE_BYTES, with_split=True), folder)
            return [json.loads(line) for line in (folder / "rows.jsonl").read_bytes().splitlines()]

    async def columns(self, project: str, shards: Sequence[Shard]) -> tuple[str, ...]:
        """See `ShardTools`."""
        smallest = min(shards, key=lambda shard: shard.artifact.size_bytes)
        with self._scratch.folder() as folder:
            path = await self._files.fetch(project, smallest.artifact, folder / "shard.parquet")
            await self._run(jobs.NameColumns(path), folder)
            return tuple(json.loads((folder / "result.json").read_bytes()))

    @asynccontextmanager
    async def compare(self, project: str, base: Manifest, target: Manifest) -> AsyncIterator[Compared]:
        """See `ShardTools`."""
        with self._scratch.folder() as folder:
            old = await self._side(project, base, folder, "base")
            await self._run(jobs.CompareSides(old, await self._side(project, target, folder, "target")), folder)
            changes = folder / "changes.jsonl"
            counts = jobs.COUNTS.validate_json((folder / "result.json").read_bytes())
            yield Compared(counts, changes if changes.exists() else None)

    @asynccontextmanager
    async def json_lines(self, project: str, shard: Shard) -> AsyncIterator[Path]:
        """See `ShardTools`."""
        with self._scratch.folder() as folder:
            local = await self._local(project, [shard], folder, "shard")
            await self._run(jobs.ReadRows(local, 0, shard.rows, EVERYTHING, with_split=False), folder)
            yield folder / "rows.jsonl"

    @asynccontextmanager
    async def without(
        self, project: str, manifest: Manifest, sources: Sequence[Source], sought: Sought
    ) -> AsyncIterator[Leftovers]:
        """See `ShardTools`."""
        with self._scratch.folder() as folder:
            side = await self._side(project, manifest, folder, "shard")
            refused = manifest.refused and await self._files.fetch(project, manifest.refused, folder / "was-refused")
            changed = manifest.changed and await self._files.fetch(project, manifest.changed, folder / "was-changed")
            local = [
                SourceFile(
                    path=await self._files.fetch(project, source.artifact, folder / f"source-{number}"),
                    title=f"source {number}",
                    format=source.format,
                    columns=source.columns,
                    name=source.artifact.filename or f"source {number}",
                )
                for number, source in enumerate(sources)
            ]
            held_out: HeldOutFiles = ()
            if sought.recipe is not None:
                # An evaluation set may be gone, or be another one; then nothing is compared with it.
                with suppress(InvalidInput, NotFound, PreconditionFailed):
                    held_out = await fetch_step_files(
                        self._files, project, sought.recipe.parts, sought.references, folder
                    )
            about = (sought.selector, sought.erasure, sought.ingestion, sought.recipe, held_out, changed)
            await self._run(jobs.EraseRows(side, refused, tuple(local), *about), folder)
            yield jobs.LEFTOVERS.validate_json((folder / "result.json").read_bytes())

    async def holds(self, project: str, artifact: ArtifactRef, text: str) -> bool | None:
        """See `ShardTools`."""
        with self._scratch.folder() as folder:
            path = await self._files.fetch(project, artifact, folder / "file")
            await self._run(jobs.FindText(path, artifact.filename, text), folder)
            return json.loads((folder / "result.json").read_bytes())

    async def sample(self, project: str, shards: Sequence[Shard], count: int) -> list[tuple[str, str]]:
        """See `ShardTools`."""
        with self._scratch.folder() as folder:
            await self._run(jobs.SampleRows(await self._local(project, shards, folder, "shard"), count), folder)
            return [(answer, text) for answer, text in json.loads((folder / "sample.json").read_bytes())]

    async def measure(
        self,
        answers: list[str],
        texts: list[str],
        reference: list[str],
        vectors: list[list[float]] | None,
        model: str,
    ) -> Measurement:
        """See `ShardTools`."""
        with self._scratch.folder() as folder:
            await self._run(jobs.MeasureTexts(answers, texts, reference, vectors, model), folder)
            return jobs.MEASUREMENT.validate_json((folder / "result.json").read_bytes())

    @asynccontextmanager
    async def fetched(self, project: str, artifact: ArtifactRef) -> AsyncIterator[Path]:
        """See `ShardTools`."""
        with self._scratch.folder() as folder:
            yield await self._files.fetch(project, artifact, folder / "file")

    async def _side(self, project: str, manifest: Manifest, folder: Path, name: str) -> jobs.Side:
        sources = tuple(source["sha256"] for source in manifest.body["sources"])
        return jobs.Side(await self._local(project, manifest.shards, folder, name), sources)

    async def _local(
        self, project: str, shards: Sequence[Shard], folder: Path, name: str
    ) -> tuple[jobs.SideShard, ...]:
        return tuple(
            [
                jobs.SideShard(
                    await self._files.fetch(project, shard.artifact, folder / f"{name}-{number}.parquet"),
                    shard.split.value.lower(),
                    shard.rows,
                    shard.rows_sha256,
                )
                for number, shard in enumerate(shards)
            ]
        )

    async def _run(self, job: jobs.ShardJob, folder: Path) -> None:
        (folder / "job.json").write_bytes(jobs.SHARD_JOB.dump_json(job))
        async with self._slots:
            # What it says on standard error quotes no data.
            child = await children.start(MODULE, folder, stdin=PIPE, stderr=PIPE)
            try:
                assert child.stderr is not None
                errors = await child.stderr.read()
                await child.wait()
            finally:
                await children.end(child)
        if child.returncode == REFUSED:
            error = json.loads((folder / "error.json").read_bytes())
            if error["reason"] == "INSUFFICIENT_STORAGE":
                raise InsufficientStorage(str(folder.parent))
            raise PreconditionFailed(error["reason"], error["message"])
        if child.returncode:
            log.error("shard_work_failed", job=job.kind, status=child.returncode, stderr=errors.decode()[-2000:])
            message = f"the process for shards ended with status {child.returncode}; the service's log tells more"
            raise Unavailable("SHARD_WORK_FAILED", message)
