"""The embedder's own ports, each by one suite over the fake and over the real thing. Where the real thing is another
service, `plane.Plane` stands for that service behind real gRPC.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mainspring_answers.holding import DeploymentHolder
from mainspring_answers.routing import RoutingFollower
from mainspring_answers.triton import TritonClient
from mainspring_embedder.adapters.catalogue import RegistryCatalogue
from mainspring_embedder.adapters.chunks import PgvectorChunks
from mainspring_embedder.adapters.embeddings import TritonEmbeddings
from mainspring_embedder.adapters.files import StoredFiles
from mainspring_embedder.application.ports import ChunkStore, Embeddings, Files, ModelCatalogue, Serving
from mainspring_embedder.domain.chunking import Chunk, chunks_of
from mainspring_embedder.domain.collections import Index
from mainspring_embedder.domain.documents import MAX_LINE_BYTES, Document
from mainspring_embedder.domain.vectors import Vector, unit
from mainspring_eventkit.bus import Bus
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.fakes import FakeArtifacts, FakeTransactions
from mainspring_testkit.neighbours import Neighbours, ServeNeighbours
from mainspring_testkit.plugin import DatabaseFor
from mainspring_testkit.waiting import eventually

from .fakes import GENERATING, VERSION, FakeCatalogue, FakeChunks, FakeEmbeddings, FakeFiles, FakeServing
from .plane import MODEL, SERVICES, Plane, triton_of

NAME = "projects/p/collections/c"
OTHER_VERSION = "projects/p/models/none/versions/1"


class OnPlane:
    @pytest.fixture
    def plane(self, bus: Bus) -> Plane:
        return Plane(bus)

    @pytest.fixture
    async def around(self, plane: Plane, neighbours: ServeNeighbours) -> Neighbours:
        return await neighbours(plane, *SERVICES)


def chunk(number: int, document: int = 0) -> Chunk:
    return chunks_of(Document(f"d{document}", "T", "u", f'text "{number}" \\ é {{}}'))[0]


class ChunkStoreContract:
    """What every chunk store does. Subclasses give `store` and `transaction`."""

    async def filled(self, store: ChunkStore, transaction: Any, vectors: Sequence[Vector], collection: str) -> Index:
        async with transaction():
            storage = await store.allocate()
            for _ in range(2):
                await store.prepare(storage)
            chunks = [chunk(number, number % 2) for number in range(len(vectors))]
            await store.add(storage, collection, chunks, vectors)
        return await store.finish(Index(1, storage))

    async def test_what_was_added_is_found_nearest_first(self, store: ChunkStore, transaction: Any) -> None:
        vectors = [unit([1.0, n / 10, 0.0]) for n in range(10)]
        index = await self.filled(store, transaction, vectors, NAME)
        assert (index.documents, index.chunks, index.dimensions) == (2, 10, 3)
        async with transaction():
            found = await store.search(index, NAME, unit([1.0, 0.0, 0.0]), 3)
        assert [passage.text for passage in found] == [chunk(n).text for n in range(3)]
        assert found[0].score == pytest.approx(1)
        assert found[0].score > found[1].score > found[2].score
        assert (found[0].title, found[0].uri, found[1].document_id) == ("T", "u", "d1")

    async def test_adding_again_changes_nothing(self, store: ChunkStore, transaction: Any) -> None:
        index = await self.filled(store, transaction, [[1.0, 0.0]], NAME)
        async with transaction():
            await store.add(index.storage, NAME, [chunk(0)], [[0.0, 1.0]])
            assert await store.known(index.storage, [chunk(0).id, chunk(1).id]) == {chunk(0).id}
            found = await store.search(index, NAME, [1.0, 0.0], 5)
        assert [passage.score for passage in found] == [pytest.approx(1)]

    async def test_i8_indexes_and_collections_are_apart(self, store: ChunkStore, transaction: Any) -> None:
        first = await self.filled(store, transaction, [[1.0, 0.0]], NAME)
        second = await self.filled(store, transaction, [[0.0, 1.0], [0.6, 0.8]], "projects/q/collections/c")
        assert first.storage != second.storage
        async with transaction():
            assert len(await store.search(first, NAME, [1.0, 0.0], 5)) == 1
            assert len(await store.search(second, "projects/q/collections/c", [1.0, 0.0], 5)) == 2
            assert await store.search(second, NAME, [1.0, 0.0], 5) == []

    async def test_dropping_forgets_and_may_be_repeated(self, store: ChunkStore, transaction: Any) -> None:
        index = await self.filled(store, transaction, [[1.0]], NAME)
        other = await self.filled(store, transaction, [[1.0]], NAME)
        for _ in range(2):
            async with transaction():
                await store.drop(index.storage)
        async with transaction():
            await store.prepare(index.storage)
            assert await store.known(index.storage, [chunk(0).id]) == set()
            assert len(await store.search(other, NAME, [1.0], 5)) == 1

    async def test_vectors_of_different_lengths_make_no_index(self, store: ChunkStore, transaction: Any) -> None:
        with pytest.raises(PreconditionFailed) as caught:
            await self.filled(store, transaction, [[1.0], [1.0, 0.0]], NAME)
        assert caught.value.reason == "VECTOR_UNUSABLE"


class TestFakeChunks(ChunkStoreContract):
    @pytest.fixture
    def store(self) -> ChunkStore:
        return FakeChunks()

    @pytest.fixture
    def transaction(self) -> Any:
        return FakeTransactions().transaction


class TestPgvectorChunks(ChunkStoreContract):
    @pytest.fixture(params=[0, 5_000], ids=["by index", "exact"])
    async def setting(self, request: pytest.FixtureRequest, database_for: DatabaseFor) -> Any:
        database = await database_for("mainspring_embedder")
        return PgvectorChunks(database, database, exact_up_to=request.param), database.transaction

    @pytest.fixture
    def store(self, setting: Any) -> ChunkStore:
        return setting[0]

    @pytest.fixture
    def transaction(self, setting: Any) -> Any:
        return setting[1]


async def test_an_index_finds_what_comparing_every_vector_finds(database_for: DatabaseFor) -> None:
    database = await database_for("mainspring_embedder")
    exact = PgvectorChunks(database, database, exact_up_to=100_000)
    quick = PgvectorChunks(database, database, exact_up_to=100)
    rng = random.Random(5)
    centres = [[rng.gauss(0, 1) for _ in range(24)] for _ in range(40)]
    vectors = [unit([x + rng.gauss(0, 0.4) for x in rng.choice(centres)]) for _ in range(2_000)]
    async with database.transaction():
        storage = await exact.allocate()
        await exact.prepare(storage)
        await exact.add(storage, NAME, [chunk(number) for number in range(2_000)], vectors)
    index = await quick.finish(Index(1, storage))
    hits = 0
    async with database.transaction() as connection:
        for vector in vectors[:50]:
            both = [await store.search(index, NAME, vector, 10) for store in (exact, quick)]
            hits += len({p.text for p in both[0]} & {p.text for p in both[1]})
        plan = await connection.exec_driver_sql(
            f"EXPLAIN SELECT id FROM chunk_{storage} WHERE collection = '{NAME}'"
            f" ORDER BY (embedding::halfvec(24)) <=> '{list(vectors[0])}'::halfvec(24) LIMIT 10"
        )
        assert f"chunk_{storage}_hnsw" in "".join(str(row) for row in plan.all())
    assert hits >= 0.97 * 500


class EmbeddingsContract:
    """What everything that embeds does; a fixture `embeddings`, where `VERSION` is in memory and no other is."""

    async def test_each_text_has_its_vector_in_their_order(self, embeddings: Embeddings) -> None:
        texts = ["a rose", "the sky", "a rose"]
        embedded = await embeddings.embed(VERSION, texts)
        assert len(embedded.vectors) == 3
        assert list(embedded.vectors[0]) == list(embedded.vectors[2]) != list(embedded.vectors[1])
        assert len({len(vector) for vector in embedded.vectors}) == 1
        assert embedded.tokens == 6
        alone = await embeddings.embed(VERSION, texts[1:2])
        assert list(alone.vectors[0]) == list(embedded.vectors[1])

    async def test_a_version_that_is_not_in_memory_is_not_found(self, embeddings: Embeddings) -> None:
        for version in (OTHER_VERSION, f"{MODEL}/versions/2"):
            with pytest.raises(NotFound):
                await embeddings.embed(version, ["a rose"])


class TestFakeEmbeddings(EmbeddingsContract):
    @pytest.fixture
    def embeddings(self) -> Embeddings:
        return FakeEmbeddings()


class TestTritonEmbeddings(OnPlane, EmbeddingsContract):
    @pytest.fixture
    async def embeddings(self, plane: Plane, bus: Bus) -> AsyncIterator[Embeddings]:
        routes = RoutingFollower(bus)
        following = asyncio.create_task(routes.run())
        async with triton_of(plane) as address:
            triton = TritonClient(address)
            await plane.load()

            async def known() -> bool:
                return routes.table(MODEL) is not None

            await eventually(known, what="the routing table")
            yield TritonEmbeddings(triton, routes)
            await triton.close()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class ServingContract:
    """What every serving plane does; fixtures `serving`, which knows `VERSION`, `refuse` (it cannot be loaded) and
    `holders`: who holds it.
    """

    async def test_who_asks_holds_it_however_often(
        self, serving: Serving, holders: Callable[[], Sequence[str]]
    ) -> None:
        for _ in range(2):
            await serving.ask_for(VERSION, NAME)
            await serving.hold(VERSION, NAME)
        await serving.ask_for(VERSION, f"{NAME}2")
        assert sorted(holders()) == [NAME, f"{NAME}2"]

    async def test_what_cannot_be_loaded_is_told_apart_from_what_is_not_there(
        self, serving: Serving, refuse: Callable[[], None]
    ) -> None:
        refuse()
        with pytest.raises(PreconditionFailed) as caught:
            await serving.hold(VERSION, NAME)
        assert caught.value.reason == "DEPLOYMENT_FAILED"
        for ask in (serving.hold, serving.ask_for):
            with pytest.raises(NotFound):
                await ask(OTHER_VERSION, NAME)


class TestFakeServing(ServingContract):
    @pytest.fixture
    def serving(self) -> FakeServing:
        return FakeServing(FakeEmbeddings())

    @pytest.fixture
    def refuse(self, serving: FakeServing) -> Callable[[], None]:
        return lambda: serving.refused.add(VERSION)

    @pytest.fixture
    def holders(self, serving: FakeServing) -> Callable[[], Sequence[str]]:
        return lambda: list({holder for _, holder in serving.asked})


class TestDeploymentHolder(OnPlane, ServingContract):
    @pytest.fixture
    def serving(self, around: Neighbours) -> Serving:
        return DeploymentHolder(around.channel, around.caller, load_timeout_s=10)

    @pytest.fixture
    def refuse(self, plane: Plane) -> Callable[[], None]:
        return lambda: setattr(plane, "refused", True)

    @pytest.fixture
    def holders(self, plane: Plane) -> Callable[[], Sequence[str]]:
        return lambda: list(plane.deployment.holders)


class CatalogueContract:
    """What every catalogue does; a fixture `catalogue` in which `VERSION` is the newest of `MODEL`."""

    async def test_a_model_has_a_newest_version(self, catalogue: ModelCatalogue) -> None:
        assert await catalogue.newest_version(MODEL) == VERSION
        with pytest.raises(NotFound):
            await catalogue.newest_version("projects/p/models/none")

    async def test_a_version_makes_vectors_or_does_not_or_is_not_there(self, catalogue: ModelCatalogue) -> None:
        await catalogue.require_embedding_model(VERSION)
        with pytest.raises(PreconditionFailed) as caught:
            await catalogue.require_embedding_model(GENERATING)
        assert caught.value.reason == "NOT_AN_EMBEDDING_MODEL"
        with pytest.raises(NotFound):
            await catalogue.require_embedding_model(f"{MODEL}/versions/9")


class TestFakeCatalogue(CatalogueContract):
    @pytest.fixture
    def catalogue(self) -> ModelCatalogue:
        return FakeCatalogue()


class TestRegistryCatalogue(OnPlane, CatalogueContract):
    @pytest.fixture
    def catalogue(self, around: Neighbours) -> ModelCatalogue:
        return RegistryCatalogue(around.channel, around.caller)


class FilesContract:
    """What every reader of files does; fixtures `files`, and `put`, which stores bytes in the project `p`."""

    async def lines(self, files: Files, artifact: ArtifactRef) -> list[bytes]:
        async with files.local("p", artifact) as file:
            first, second = [[line async for some in file.lines() for line in some] for _ in range(2)]
        assert first == second, "a file can be read twice"
        return first

    async def test_b9_lines_are_whole_whatever_ends_them_and_the_too_long_are_cut_off(
        self, files: Files, put: Callable[[bytes], Awaitable[ArtifactRef]]
    ) -> None:
        long, longest = b"x" * (MAX_LINE_BYTES * 2 + 5), b"y" * MAX_LINE_BYTES
        lines = await self.lines(files, await put(b"one\r\n\ntwo\n" + long + b"\n" + longest + b"\nlast"))
        assert lines[:3] == [b"one", b"", b"two"]
        assert MAX_LINE_BYTES < len(lines[3]) < len(long), "what is too long stays recognisably so"
        assert lines[4:] == [longest, b"last"]
        assert await self.lines(files, await put(b"one\ntwo\n")) == [b"one", b"two"]
        assert await self.lines(files, await put(b"")) == []

    async def test_what_is_not_there_is_not_found(self, files: Files) -> None:
        with pytest.raises(NotFound):
            await self.lines(files, ArtifactRef("a" * 64, 1))


class TestFakeFiles(FilesContract):
    @pytest.fixture
    def store(self) -> FakeArtifacts:
        return FakeArtifacts()

    @pytest.fixture
    def files(self, store: FakeArtifacts) -> Files:
        return FakeFiles(store)

    @pytest.fixture
    def put(self, store: FakeArtifacts) -> Callable[[bytes], Awaitable[ArtifactRef]]:
        return lambda data: store.put_bytes("p", data)


class TestStoredFiles(FilesContract):
    @pytest.fixture
    def files(self, artifact_url: str, tmp_path: Path) -> Files:
        return StoredFiles(ArtifactStore(artifact_url), tmp_path)

    @pytest.fixture
    def put(self, artifact_url: str) -> Callable[[bytes], Awaitable[ArtifactRef]]:
        return lambda data: ArtifactStore(artifact_url).put_bytes("p", data)
