"""Use cases of index builds: a new index beside the old one, a switch in one transaction, then the old one goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mainspring_embedder.application.collections import CONTEXT_EXCEEDED
from mainspring_embedder.application.ports import Embedded, LocalFile, Ports
from mainspring_embedder.domain.chunking import Chunk, chunks_of
from mainspring_embedder.domain.collections import PROGRESS_UNIT, Collection, Index, IndexBuild
from mainspring_embedder.domain.documents import Document, LineRefused, Refusal, Survey, parse_line
from mainspring_embedder.domain.vectors import Vector, unit
from mainspring_svckit.errors import InvalidInput, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import CollectionName, IndexBuildName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef, Progress

BUILD_WORK = "index-build"
DROP_WORK = "index-drop"


@dataclass(frozen=True)
class BuildOptions:
    """How builds go about it.

    Attributes:
        batch: Chunks in one call of the engine.
        tries: Most tries for one call.
        retry_wait_s: Wait before the second try; doubled for each further one.
        drop_delay_s: Time for searches that have read which index is active to search it, before it goes.
    """

    batch: int
    tries: int
    retry_wait_s: float
    drop_delay_s: float


class Builds:
    """Use cases of builds."""

    def __init__(self, ports: Ports, options: BuildOptions) -> None:
        self._ports, self._options = ports, options

    async def create(self, collection_name: str, documents: ArtifactRef) -> IndexBuild:
        """Queues a build.

        Raises:
            NotFound: There is no such collection.
        """
        ports = self._ports
        parsed = CollectionName.parse(collection_name, "parent")
        async with ports.transactions.transaction():
            found = await require(ports.collections, "Collection", collection_name, lock=True)
            collection, number = found.value.with_index()
            build = IndexBuild(
                name=str(IndexBuildName(parsed.project, parsed.collection, ports.new_id())),
                collection=collection_name,
                index=number,
                storage=await ports.chunks.allocate(),
                documents=documents,
                create_time=ports.clock.now(),
            )
            await ports.collections.put(collection)
            stored = await ports.builds.add(build)
            await ports.work.enqueue(BUILD_WORK, build.name)
        return stored.value

    async def run(self, name: str, lease: Claim) -> None:
        """Does a build to its end. Safe to repeat: chunks that are there are not embedded again.

        Raises:
            PreconditionFailed: There can be no index; the reason says why.
            Unavailable: Not now.
            LeaseLost: Another worker has it.
        """
        ports = self._ports
        build, collection = await self._start(name, lease)
        version = collection.embedding_model_version
        project = CollectionName.parse(collection.name).project
        async with ports.files.local(project, build.documents) as file:
            survey = await _survey(file)
            survey.check()
            await ports.serving.hold(version, holder=collection.name)
            await self._fill(build, collection, file, survey, lease)
        index = await ports.chunks.finish(Index(build.index, build.storage))
        async with lease.complete():
            await self._switch(build, index, survey)

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Records why there is no index; the one before stays. Joins the ambient transaction."""
        ports = self._ports
        build = (await require(ports.builds, "IndexBuild", name, lock=True)).value.started()
        await ports.builds.put(build.failed(reason, message, ports.clock.now()))
        await ports.work.enqueue(DROP_WORK, str(build.storage))
        await ports.notifier.notify("watch", name)

    async def drop(self, storage: str, lease: Claim) -> None:
        """Forgets the chunks of an index that is not searched; safe to repeat."""
        async with lease.complete():
            await self._ports.chunks.drop(int(storage))

    async def _start(self, name: str, lease: Claim) -> tuple[IndexBuild, Collection]:
        ports = self._ports
        async with lease.transaction():
            build = (await require(ports.builds, "IndexBuild", name, lock=True)).value.started()
            collection = (await require(ports.collections, "Collection", build.collection)).value
            await ports.builds.put(build.advanced(replace(build.progress, phase="reading")))
            await ports.chunks.prepare(build.storage)
            await ports.notifier.notify("watch", name)
        return build, collection

    async def _fill(
        self, build: IndexBuild, collection: Collection, file: LocalFile, survey: Survey, lease: Claim
    ) -> None:
        """Embeds what is missing, a batch after the other, each with the progress that it makes."""
        ports, done = self._ports, 0
        began_at, made = ports.clock.now(), 0
        async for batch in _batches(file, self._options.batch):
            async with ports.transactions.transaction():
                known = await ports.chunks.known(build.storage, [chunk.id for chunk in batch])
            missing = [chunk for chunk in batch if chunk.id not in known]
            embedded = await self._embed(collection, missing) if missing else []
            done, made = done + len(batch), made + len(missing)
            phase = "; ".join(filter(None, ["embedding", survey.words]))
            remaining_s = _remaining_s(began_at, ports.clock.now(), made, survey.chunks - done)
            async with lease.transaction():
                if embedded:
                    chunks, vectors = zip(*embedded, strict=True)
                    await ports.chunks.add(build.storage, collection.name, chunks, vectors)
                current = (await require(ports.builds, "IndexBuild", build.name, lock=True)).value
                progress = Progress(done, survey.chunks, PROGRESS_UNIT, phase, remaining_s)
                await ports.builds.put(current.advanced(progress))
                await ports.notifier.notify("watch", build.name)

    async def _switch(self, build: IndexBuild, index: Index, survey: Survey) -> None:
        """The collection is searched through the new index from now on. Joins the ambient transaction."""
        ports = self._ports
        collection = (await require(ports.collections, "Collection", build.collection, lock=True)).value
        old = collection.active
        if old is not None and old.number > build.index:
            message = f"index {old.number} was asked for later and is active already; ask for a new build if needed"
            await self.give_up(build.name, "SUPERSEDED", message)
            return
        collection = collection.refreshed(index, ports.clock.now())
        await ports.collections.put(collection)
        current = (await require(ports.builds, "IndexBuild", build.name, lock=True)).value
        done = Progress(index.chunks, index.chunks, PROGRESS_UNIT, survey.words)
        await ports.builds.put(current.succeeded(done, ports.clock.now()))
        if old is not None:
            await ports.work.enqueue(DROP_WORK, str(old.storage), delay_s=self._options.drop_delay_s)
        await ports.announcements.refreshed(collection)
        await ports.notifier.notify("watch", build.name)

    async def _embed(self, collection: Collection, chunks: Sequence[Chunk]) -> list[tuple[Chunk, Vector]]:
        """Vectors of chunks; one that the model finds too long is cut in halves."""
        try:
            embedded = await self._patiently(collection, [chunk.to_embed for chunk in chunks])
        except InvalidInput as err:
            parts = chunks if len(chunks) > 1 else chunks[0].halves()
            if err.reason != CONTEXT_EXCEEDED or parts is None:
                message = f"the engine refused a chunk of document {chunks[0].document_id!r}: {err.message}"
                raise PreconditionFailed("EMBEDDING_REFUSED", message, {"cause": err.reason}) from err
            middle = len(parts) // 2
            return [*await self._embed(collection, parts[:middle]), *await self._embed(collection, parts[middle:])]
        return [(chunk, unit(vector)) for chunk, vector in zip(chunks, embedded.vectors, strict=True)]

    async def _patiently(self, collection: Collection, texts: Sequence[str]) -> Embedded:
        ports, version = self._ports, collection.embedding_model_version
        for attempt in range(1, self._options.tries + 1):
            try:
                return await ports.embeddings.embed(version, texts)
            except (NotFound, Unavailable) as err:
                if attempt == self._options.tries:
                    message = f"{version} did not embed in {attempt} tries: {err.message}"
                    raise Unavailable("EMBEDDING_FAILED", message) from err
                await asyncio.sleep(self._options.retry_wait_s * 2 ** (attempt - 1))
                await ports.serving.hold(version, holder=collection.name)
        raise AssertionError("unreachable")


async def _survey(file: LocalFile) -> Survey:
    """Reads a file once to know what is in it, before anything is embedded."""
    survey = Survey()
    async for document in _documents(file, survey):
        survey.documents += 1
        survey.chunks += len(chunks_of(document))
    return survey


async def _documents(file: LocalFile, survey: Survey) -> AsyncIterator[Document]:
    """The documents of a file; lines that hold none are counted in `survey`."""
    seen: set[str] = set()
    number = 0
    async for lines in file.lines():
        for line in lines:
            number += 1
            if not line.strip():
                continue  # Usual at the end of files.
            survey.lines += 1
            try:
                document = parse_line(line)
                if document.id in seen:
                    raise LineRefused(Refusal.DUPLICATE_ID)
            except LineRefused as refused:
                survey.refuse(number, refused.reason)
                continue
            seen.add(document.id)
            yield document


async def _batches(file: LocalFile, size: int) -> AsyncIterator[list[Chunk]]:
    batch: list[Chunk] = []
    async for document in _documents(file, Survey()):
        batch += chunks_of(document)
        while len(batch) >= size:
            yield batch[:size]
            batch = batch[size:]
    if batch:
        yield batch


def _remaining_s(began_at: datetime, now: datetime, made: int, left: int) -> float | None:
    return (now - began_at).total_seconds() / made * max(left, 0) if made else None
