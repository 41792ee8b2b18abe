"""The fakes of this service's own ports; each passes the contract suite of its port."""

import re
from collections.abc import AsyncIterator, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import replace

from mainspring_embedder.application.ports import Embedded, Found, LocalFile
from mainspring_embedder.domain.chunking import Chunk
from mainspring_embedder.domain.collections import Index
from mainspring_embedder.domain.documents import MAX_LINE_BYTES
from mainspring_embedder.domain.vectors import Vector
from mainspring_svckit.errors import InvalidInput, NotFound, PreconditionFailed
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.fakes import (
    FakeArtifacts,
)

VERSION = "projects/p/models/e/versions/1"
GENERATING = "projects/p/models/base/versions/1"
TOPICS = ("rose", "violet", "grass", "sky")


class FakeEmbeddings:
    """A vector has one component for each topic, by how often the text names it."""

    def __init__(self) -> None:
        self.deployed = {VERSION}
        self.longest_words = 1_000
        self.texts: list[str] = []
        self.failures: list[Exception] = []

    async def embed(self, model_version: str, texts: Sequence[str]) -> Embedded:
        if self.failures:
            raise self.failures.pop()
        if model_version not in self.deployed:
            raise NotFound("ServedModel", model_version)
        if any(len(text.split()) > self.longest_words for text in texts):
            raise InvalidInput("too long", reason="CONTEXT_LENGTH_EXCEEDED")
        self.texts += texts
        vectors = [[0.01 + len(re.findall(topic, text)) for topic in TOPICS] for text in texts]
        return Embedded(vectors, sum(len(text.split()) for text in texts))


class FakeServing:
    def __init__(self, embeddings: FakeEmbeddings) -> None:
        self._embeddings = embeddings
        self.asked: list[tuple[str, str]] = []
        self.refused: set[str] = set()

    async def ask_for(self, version: str, holder: str) -> None:
        if version != VERSION:
            raise NotFound("ModelVersion", version)
        self.asked.append((version, holder))

    async def hold(self, version: str, holder: str) -> None:
        await self.ask_for(version, holder)
        if version in self.refused:
            raise PreconditionFailed("DEPLOYMENT_FAILED", "bad weights")
        self._embeddings.deployed.add(version)


class FakeCatalogue:
    async def newest_version(self, model: str) -> str:
        if model != "projects/p/models/e":
            raise NotFound("Model", model)
        return VERSION

    async def require_embedding_model(self, version: str) -> None:
        if version == GENERATING:
            raise PreconditionFailed("NOT_AN_EMBEDDING_MODEL", version)
        if version != VERSION:
            raise NotFound("ModelVersion", version)


class FakeFiles:
    def __init__(self, artifacts: FakeArtifacts) -> None:
        self._artifacts = artifacts

    @asynccontextmanager
    async def local(self, project: str, artifact: ArtifactRef) -> AsyncIterator[LocalFile]:
        data = await self._artifacts.read(project, artifact)

        class Lines:
            async def lines(self) -> AsyncIterator[Sequence[bytes]]:
                for line in data.removesuffix(b"\n").split(b"\n") if data else []:
                    yield [line[: MAX_LINE_BYTES + 2].rstrip(b"\r")]

        yield Lines()


class FakeChunks:
    """Compares every vector."""

    def __init__(self) -> None:
        self.storages = 0
        self.rows: dict[int, dict[str, tuple[str, Chunk, Vector]]] = {}

    async def allocate(self) -> int:
        self.storages += 1
        return self.storages

    async def prepare(self, storage: int) -> None:
        self.rows.setdefault(storage, {})

    async def known(self, storage: int, ids: Sequence[str]) -> Set[str]:
        return set(ids) & set(self.rows[storage])

    async def add(self, storage: int, collection: str, chunks: Sequence[Chunk], vectors: Sequence[Vector]) -> None:
        for chunk, vector in zip(chunks, vectors, strict=True):
            self.rows[storage].setdefault(chunk.id, (collection, chunk, vector))

    async def finish(self, index: Index) -> Index:
        rows = self.rows[index.storage].values()
        lengths = {len(vector) for _, _, vector in rows}
        if len(lengths) > 1:
            raise PreconditionFailed("VECTOR_UNUSABLE", "lengths differ")
        documents = {chunk.document_id for _, chunk, _ in rows}
        return replace(index, documents=len(documents), chunks=len(rows), dimensions=next(iter(lengths), 0))

    async def search(self, index: Index, collection: str, vector: Vector, top_k: int) -> Sequence[Found]:
        found = [
            Found(c.document_id, c.title, c.uri, c.text, sum(a * b for a, b in zip(v, vector, strict=True)))
            for of, c, v in self.rows[index.storage].values()
            if of == collection
        ]
        return sorted(found, key=lambda passage: passage.score, reverse=True)[:top_k]

    async def drop(self, storage: int) -> None:
        self.rows.pop(storage, None)
