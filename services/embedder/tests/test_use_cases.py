"""Use cases over fakes: what is searched, stored and announced; and the contract of the chunk store, fake and real."""

import json
import random
import re
from collections.abc import AsyncIterator, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mainspring.events.v1.embedding_events_pb2 import CollectionRefreshed
from mainspring_embedder.adapters.announcements import OutboxAnnouncements
from mainspring_embedder.adapters.chunks import PgvectorChunks
from mainspring_embedder.adapters.files import TextFile
from mainspring_embedder.application.building import BUILD_WORK, DROP_WORK, BuildOptions, Builds
from mainspring_embedder.application.collections import HOLD_WORK, Collections
from mainspring_embedder.application.ports import ChunkStore, Embedded, Found, LocalFile, Ports
from mainspring_embedder.domain.chunking import Chunk, chunks_of
from mainspring_embedder.domain.collections import BuildState, Collection, Index, IndexBuild
from mainspring_embedder.domain.documents import MAX_LINE_BYTES, Document
from mainspring_embedder.domain.vectors import Vector, unit
from mainspring_svckit.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import project_of
from mainspring_svckit.values import ArtifactRef
from mainspring_svckit.work import LeaseLost
from mainspring_testkit.fakes import (
    FakeArtifacts,
    FakeClock,
    FakeNotifier,
    FakeOutbox,
    FakeRepository,
    FakeTransactions,
    FakeWork,
)
from mainspring_testkit.plugin import DatabaseFor

VERSION = "projects/p/models/e/versions/1"
NAME = "projects/p/collections/c"
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

    async def ask_for(self, version: str, holder: str) -> None:
        self.asked.append((version, holder))

    async def hold(self, version: str, holder: str) -> None:
        await self.ask_for(version, holder)
        self._embeddings.deployed.add(version)


class FakeCatalogue:
    async def newest_version(self, model: str) -> str:
        if model != "projects/p/models/e":
            raise NotFound("Model", model)
        return VERSION


class FakeFiles:
    def __init__(self, artifacts: FakeArtifacts) -> None:
        self._artifacts = artifacts

    @asynccontextmanager
    async def local(self, project: str, artifact: ArtifactRef) -> AsyncIterator[LocalFile]:
        data = await self._artifacts.read(project, artifact)

        class Lines:
            async def lines(self) -> AsyncIterator[Sequence[bytes]]:
                for line in data.split(b"\n"):
                    yield [line]

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


@dataclass
class FakeLease:
    """A lease that is lost after so many transactions."""

    lasts: float = float("inf")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        self.lasts -= 1
        if self.lasts < 0:
            raise LeaseLost("build")
        yield

    complete = transaction


def project(value: Any) -> str:
    return f"projects/{project_of(value.name)}"


@dataclass
class World:
    embeddings: FakeEmbeddings = field(default_factory=FakeEmbeddings)
    chunks: FakeChunks = field(default_factory=FakeChunks)
    artifacts: FakeArtifacts = field(default_factory=FakeArtifacts)
    outbox: FakeOutbox = field(default_factory=FakeOutbox)
    work: FakeWork = field(default_factory=FakeWork)
    notifier: FakeNotifier = field(default_factory=FakeNotifier)

    def __post_init__(self) -> None:
        ids = iter(f"build-{number}" for number in range(100))
        self.serving = FakeServing(self.embeddings)
        self.ports = Ports(
            transactions=FakeTransactions(),
            collections=FakeRepository[Collection](parent=project, sort_key=lambda c: c.name),
            builds=FakeRepository[IndexBuild](parent=lambda b: b.collection, sort_key=lambda b: b.name),
            chunks=self.chunks,
            embeddings=self.embeddings,
            serving=self.serving,
            catalogue=FakeCatalogue(),
            files=FakeFiles(self.artifacts),
            announcements=OutboxAnnouncements(self.outbox),  # type: ignore[arg-type]
            work=self.work,
            notifier=self.notifier,
            clock=FakeClock(),
            new_id=lambda: next(ids),
        )
        self.collections = Collections(self.ports)
        self.builds = Builds(self.ports, BuildOptions(batch=2, tries=3, retry_wait_s=0, drop_delay_s=1))

    async def asked_for(self, *texts: str, lines: Sequence[bytes] = ()) -> IndexBuild:
        """A build of documents with these texts, and more lines; the collection is made when it is missing."""
        if not await self.ports.collections.get(NAME):
            await self.collections.create("p", "c", VERSION)
        documents = [
            json.dumps({"id": text.split()[0], "title": f"About {text.split()[0]}", "text": text}).encode()
            for text in texts
        ]
        file = await self.artifacts.put_bytes("p", b"\n".join([*documents, *lines]))
        return await self.builds.create(NAME, file)

    async def built(self, *texts: str, lines: Sequence[bytes] = ()) -> IndexBuild:
        build = await self.asked_for(*texts, lines=lines)
        await self.builds.run(build.name, FakeLease())
        return await self.stored(build.name)

    async def stored(self, name: str) -> IndexBuild:
        found = await self.ports.builds.get(name)
        assert found is not None
        return found.value

    async def collection(self) -> Collection:
        found = await self.ports.collections.get(NAME)
        assert found is not None
        return found.value


@pytest.fixture
def world() -> World:
    return World()


async def test_a_collection_is_made_once_and_its_model_is_kept_in_memory(world: World) -> None:
    collection = await world.collections.create("p", "c", VERSION)
    assert (collection.name, collection.active) == (NAME, None)
    assert set(world.work.queued) == {(HOLD_WORK, NAME)}
    await world.collections.hold(NAME)
    assert world.serving.asked == [(VERSION, NAME)]
    with pytest.raises(AlreadyExists):
        await world.collections.create("p", "c", VERSION)


async def test_an_empty_collection_has_no_passages(world: World) -> None:
    await world.collections.create("p", "c", VERSION)
    result = await world.collections.search(NAME, "rose", 3)
    assert (list(result.passages), result.index) == ([], 0)
    with pytest.raises(NotFound):
        await world.collections.search("projects/p/collections/other", "rose", 3)


async def test_what_was_built_is_found_by_meaning(world: World) -> None:
    build = await world.built("rose is a rose", "violet is blue", "grass is green", "sky is wide")
    assert build.state is BuildState.SUCCEEDED
    assert (build.progress.done, build.progress.total, build.progress.unit) == (4, 4, "chunks")
    result = await world.collections.search(NAME, "a violet", 2)
    assert (result.index, len(result.passages)) == (1, 2)
    best = result.passages[0]
    assert (best.document_id, best.title, best.text) == ("violet", "About violet", "violet is blue")
    assert best.score > result.passages[1].score
    assert best.score == pytest.approx(1, abs=1e-3)
    collection = await world.collection()
    assert collection.active == Index(1, 1, 4, 4, 4)
    (event,) = world.outbox.emitted
    assert event == CollectionRefreshed(
        collection=NAME, index=1, embedding_model_version=VERSION, document_count=4, chunk_count=4
    )
    assert "About violet\nviolet is blue" in world.embeddings.texts
    assert ("watch", build.name) in world.notifier.sent


async def test_a_new_build_takes_the_place_of_the_old_one_which_goes(world: World) -> None:
    await world.built("rose is a rose")
    await world.built("violet is blue")
    result = await world.collections.search(NAME, "rose", 5)
    assert (result.index, [passage.document_id for passage in result.passages]) == (2, ["violet"])
    assert (DROP_WORK, "1") in world.work.queued
    for _ in range(2):
        await world.builds.drop("1", FakeLease())
    assert set(world.chunks.rows) == {2}


async def test_a_failed_build_leaves_the_index_before(world: World) -> None:
    await world.built("rose is a rose")
    build = await world.asked_for(lines=[b"no documents here"])
    with pytest.raises(PreconditionFailed) as caught:
        await world.builds.run(build.name, FakeLease())
    assert caught.value.reason == "NO_DOCUMENTS"
    await world.builds.give_up(build.name, caught.value.reason, caught.value.message)
    stored = await world.stored(build.name)
    assert (stored.state, stored.error_reason) == (BuildState.FAILED, "NO_DOCUMENTS")
    assert "NOT_JSON 1" in stored.error_message
    assert (DROP_WORK, str(build.storage)) in world.work.queued
    assert (await world.collections.search(NAME, "rose", 5)).index == 1
    assert len(world.outbox.emitted) == 1


async def test_b9_a_few_bad_lines_are_left_out_and_told(world: World) -> None:
    texts = [f"id{number} is about a rose" for number in range(20)]
    build = await world.built(*texts, lines=[b"{", b'{"id": "id3", "text": "again"}', b""])
    assert build.state is BuildState.SUCCEEDED
    assert build.progress.phase == "2 of 22 lines refused (NOT_JSON 1, DUPLICATE_ID 1; the first is line 21)"
    assert (await world.collection()).active == Index(1, 1, 20, 20, 4)


async def test_a_build_that_another_worker_goes_on_with_embeds_only_what_is_missing(world: World) -> None:
    build = await world.asked_for("rose is", "violet is", "grass is", "sky is")
    with pytest.raises(LeaseLost):
        await world.builds.run(build.name, FakeLease(lasts=2))  # One to start, one for the first two chunks.
    assert len(world.chunks.rows[build.storage]) == 2
    world.embeddings.texts.clear()
    await world.builds.run(build.name, FakeLease())
    assert world.embeddings.texts == ["About grass\ngrass is", "About sky\nsky is"]
    assert (await world.collection()).active == Index(1, 1, 4, 4, 4)


async def test_a_build_that_was_overtaken_does_not_turn_back_the_collection(world: World) -> None:
    slow = await world.asked_for("rose is a rose")
    await world.built("violet is blue")
    await world.builds.run(slow.name, FakeLease())
    stored = await world.stored(slow.name)
    assert (stored.state, stored.error_reason) == (BuildState.FAILED, "SUPERSEDED")
    assert (await world.collections.search(NAME, "rose", 5)).index == 2
    assert len(world.outbox.emitted) == 1


async def test_a_chunk_that_the_model_finds_too_long_is_cut(world: World) -> None:
    world.embeddings.longest_words = 7
    text = " ".join(["rose", *(f"word{number}" for number in range(20))])
    await world.built(text, "violet is blue")
    active = (await world.collection()).active
    assert active is not None
    assert (active.documents, active.chunks) == (2, 6)
    texts = [chunk.text for _, chunk, _ in world.chunks.rows[1].values() if chunk.document_id == "rose"]
    assert " ".join(texts) == text
    world.embeddings.longest_words = 1
    build = await world.asked_for("grass is green")
    with pytest.raises(PreconditionFailed) as caught:
        await world.builds.run(build.name, FakeLease())
    assert caught.value.reason == "EMBEDDING_REFUSED"


async def test_f16_a_passing_trouble_is_sat_out_and_a_lasting_one_puts_the_build_off(world: World) -> None:
    world.embeddings.failures = [Unavailable("X", "away"), NotFound("ServedModel", VERSION)]
    assert (await world.built("rose is a rose")).state is BuildState.SUCCEEDED
    build = await world.asked_for("violet is blue")
    world.embeddings.failures = [Unavailable("X", "away")] * 3
    with pytest.raises(Unavailable) as caught:
        await world.builds.run(build.name, FakeLease())
    assert caught.value.reason == "EMBEDDING_FAILED"


async def test_a_build_of_a_missing_collection_is_refused(world: World) -> None:
    with pytest.raises(NotFound):
        await world.builds.create(NAME, ArtifactRef("a" * 64, 1))
    assert (BUILD_WORK, NAME) not in world.work.queued


async def test_texts_are_embedded_by_a_version_or_by_the_newest_of_a_model(world: World) -> None:
    for model in (VERSION, "projects/p/models/e"):
        version, embedded = await world.collections.embed_texts("p", model, ["a rose", "the sky"])
        assert (version, embedded.tokens) == (VERSION, 4)
        assert [sum(x * x for x in vector) for vector in embedded.vectors] == [pytest.approx(1)] * 2
    with pytest.raises(NotFound):
        await world.collections.embed_texts("p", "projects/p/models/other", ["x"])
    with pytest.raises(InvalidInput):
        await world.collections.embed_texts("p", "projects/p/models/e/versions/No", ["x"])


async def test_a_version_that_is_not_deployed_is_asked_for_and_the_caller_is_told_to_come_again(world: World) -> None:
    await world.built("rose is a rose")
    world.embeddings.deployed.clear()
    world.serving.asked.clear()
    for ask, holder in (
        (world.collections.embed_texts("p", VERSION, ["x"]), "projects/p/embedder"),
        (world.collections.search(NAME, "rose", 1), NAME),
    ):
        with pytest.raises(Unavailable) as caught:
            await ask
        assert (caught.value.reason, caught.value.retry_after_s) == ("MODEL_LOADING", 2.0)
        assert world.serving.asked.pop() == (VERSION, holder)


async def test_b4_of_a_query_that_is_too_long_the_beginning_counts(world: World) -> None:
    await world.built("rose is a rose", "violet is blue")
    world.embeddings.longest_words = 40
    result = await world.collections.search(NAME, "violet " + "rose " * 2_000, 1)
    assert result.passages[0].document_id == "rose"
    world.embeddings.longest_words = 0
    with pytest.raises(InvalidInput):
        await world.collections.search(NAME, "violet", 1)


async def test_b9_lines_are_read_whole_whatever_ends_them_and_the_too_long_are_cut_off(tmp_path: Path) -> None:
    long = b"x" * (MAX_LINE_BYTES * 2 + 5)
    path = tmp_path / "documents.jsonl"
    path.write_bytes(b"one\r\n\ntwo\n" + long + b"\n" + b"y" * MAX_LINE_BYTES + b"\nlast")
    lines = [line async for some in TextFile(path).lines() for line in some]
    assert lines[:3] == [b"one", b"", b"two"]
    assert len(lines[3]) > MAX_LINE_BYTES, "what is too long stays recognisably so"
    assert lines[4:] == [b"y" * MAX_LINE_BYTES, b"last"]


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
