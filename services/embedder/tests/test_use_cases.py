"""Use cases over fakes: what is searched, stored and announced; and the contract of the chunk store, fake and real."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from mainspring.events.v1.embedding_events_pb2 import CollectionRefreshed
from mainspring_embedder.adapters.announcements import OutboxAnnouncements
from mainspring_embedder.application.building import BUILD_WORK, DROP_WORK, BuildOptions, Builds
from mainspring_embedder.application.collections import HOLD_WORK, Collections
from mainspring_embedder.application.ports import Ports
from mainspring_embedder.domain.collections import BuildState, Collection, Index, IndexBuild
from mainspring_svckit.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import project_name_of
from mainspring_svckit.values import ArtifactRef
from mainspring_svckit.work import LeaseLost
from mainspring_testkit.fakes import (
    FakeArtifacts,
    FakeClock,
    FakeLease,
    FakeNotifier,
    FakeOutbox,
    FakeRepository,
    FakeTransactions,
    FakeWork,
)

from .fakes import GENERATING, VERSION, FakeCatalogue, FakeChunks, FakeEmbeddings, FakeFiles, FakeServing

NAME = "projects/p/collections/c"


def project(value: Any) -> str:
    return project_name_of(value.name)


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


async def test_what_is_nowhere_or_makes_no_vectors_is_not_waited_for(world: World) -> None:
    with pytest.raises(NotFound):
        await world.collections.embed_texts("p", "projects/p/models/e/versions/9", ["x"])
    with pytest.raises(PreconditionFailed, match=GENERATING):
        await world.collections.embed_texts("p", GENERATING, ["x"])
    assert world.serving.asked == []


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
