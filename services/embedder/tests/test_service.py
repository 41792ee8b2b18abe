"""The embedder as its users meet it: gRPC and events, two replicas, real NATS, Postgres and gRPC around it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from mainspring.embedding.v1 import collection_pb2
from mainspring.embedding.v1 import embedding_service_pb2 as pb
from mainspring.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from mainspring.events.v1.embedding_events_pb2 import CollectionRefreshed
from mainspring_eventkit.bus import Bus
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.database import Database
from mainspring_svckit.errors import AlreadyExists, InvalidInput, NotFound, Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_testkit.events import EventTap
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.waiting import eventually

from .plane import MODEL, SERVICES, VERSION, Plane, triton_of

NAME = "projects/p/collections/c"


class Embedder:
    """Two replicas, what they ask, and somebody who calls them."""

    def __init__(self, surroundings: Surroundings, replicas: list[ServiceProcess], plane: Plane, store: Any) -> None:
        self.replicas, self.plane, self.store = replicas, plane, store
        self.caller, self.stranger = surroundings.caller("admin"), surroundings.caller("admin", project="q")
        self.turn = 0

    async def call(self, method: str, *, caller: Any = None, **fields: Any) -> Any:
        self.turn += 1
        replica = self.replicas[self.turn % len(self.replicas)]
        request = getattr(pb, f"{method}Request")(**fields)
        stub: Any = pb_grpc.EmbeddingServiceStub(replica.channel)
        return await (caller or self.caller).unary(getattr(stub, method), request, getattr(pb, f"{method}Response"))

    async def create(self) -> collection_pb2.Collection:
        answer = await self.call(
            "CreateCollection", parent="projects/p", collection_id="c", embedding_model_version=VERSION
        )
        return answer.collection

    async def build(self, *texts: str, more: bytes = b"", **fields: Any) -> collection_pb2.IndexBuild:
        documents = [{"id": text.split()[0], "title": "T", "uri": "https://x", "text": text} for text in texts]
        data = "\n".join(json.dumps(document) for document in documents).encode() + more
        stored = artifact_to_proto(await self.store.put_bytes("p", data))
        return (await self.call("CreateIndexBuild", parent=NAME, documents=stored, **fields)).index_build

    async def watch(self, build: collection_pb2.IndexBuild) -> list[collection_pb2.IndexBuild]:
        stub: Any = pb_grpc.EmbeddingServiceStub(self.replicas[0].channel)
        request = pb.WatchIndexBuildRequest(name=build.name)
        stream = self.caller.stream(stub.WatchIndexBuild, request, pb.WatchIndexBuildResponse, timeout_s=60)
        return [answer.index_build async for answer in stream]

    async def search(self, query: str, **fields: Any) -> pb.SearchCollectionResponse:
        return await self.call("SearchCollection", name=NAME, query=query, **fields)


@pytest.fixture
async def plane(bus: Bus, neighbours: ServeNeighbours) -> AsyncIterator[tuple[Plane, dict[str, str]]]:
    """What the embedder asks, and its settings that say where."""
    made = Plane(bus)
    address = (await neighbours(made, *SERVICES)).address
    async with triton_of(made) as triton_url:
        yield made, {"registry_address": address, "inference_address": address, "triton_url": triton_url}


@pytest.fixture
async def database_url(postgres: PostgresServer) -> str:
    return await postgres.new_database("mainspring_embedder")


@pytest.fixture
async def embedder(
    surroundings: Surroundings, database_url: str, artifact_url: str, plane: tuple[Plane, dict[str, str]]
) -> Embedder:
    made, addresses = plane
    settings = {"embed_batch": 4, "embed_retry_wait_s": 0.05, "build_attempts": 3, "drop_delay_s": 0, "lease_s": 2}
    replicas = [
        surroundings.replica("mainspring_embedder.main", database_url, **addresses, **settings) for _ in range(2)
    ]
    await asyncio.gather(*(replica.start() for replica in replicas))
    return Embedder(surroundings, replicas, made, ArtifactStore(artifact_url))


async def test_a_collection_is_built_searched_and_built_anew(
    embedder: Embedder, event_tap: EventTap, database_url: str
) -> None:
    made = await embedder.create()
    assert (made.name, made.embedding_model_version, made.active_index) == (NAME, VERSION, 0)

    async def held() -> bool:
        return NAME in embedder.plane.deployment.holders

    await eventually(held, what="the collection to hold its model")
    empty = await embedder.search("rose")
    assert (list(empty.passages), empty.index) == ([], 0)
    texts = ["rose is a rose", "violet is blue", "grass is green", "sky is wide", "roses and violets"]
    seen = await embedder.watch(await embedder.build(*texts))
    assert seen[-1].state == collection_pb2.IndexBuild.STATE_SUCCEEDED, seen[-1].error.message
    assert (seen[-1].progress.done, seen[-1].progress.total, seen[-1].progress.unit) == (5, 5, "chunks")
    for _ in embedder.replicas:
        found = await embedder.search("a violet in the grass", top_k=2)
        assert {passage.document_id for passage in found.passages} == {"violet", "grass"}
        assert (found.index, found.passages[0].title, found.passages[0].uri) == (1, "T", "https://x")
        assert found.passages[0].score == pytest.approx(0.7, abs=0.05)
    assert len((await embedder.search("sky")).passages) == 5
    (refreshed,) = await event_tap.wait_for(CollectionRefreshed)
    assert refreshed == CollectionRefreshed(
        collection=NAME, index=1, embedding_model_version=VERSION, document_count=5, chunk_count=5
    )

    searching = asyncio.create_task(_search_until_changed(embedder))
    done = (await embedder.watch(await embedder.build("sky is all there is")))[-1]
    assert done.index == 2
    assert await searching > 0
    assert [p.document_id for p in (await embedder.search("rose")).passages] == ["sky"]
    stored = (await embedder.call("GetCollection", name=NAME)).collection
    assert (stored.active_index, stored.document_count, stored.chunk_count) == (2, 1, 1)
    listed = (await embedder.call("ListIndexBuilds", parent=NAME)).index_builds
    assert [build.index for build in listed] == [2, 1]
    assert list((await embedder.call("ListCollections", parent="projects/p")).collections) == [stored]
    await event_tap.wait_for(CollectionRefreshed, count=2)
    await _only_partition_left(database_url, "chunk_2")


async def _search_until_changed(embedder: Embedder) -> int:
    """Searches without a pause until the new index answers; no search fails meanwhile. Returns how many there were."""
    count = 0
    while (await embedder.search("rose", top_k=1)).index == 1:
        count += 1
    return count


async def _only_partition_left(database_url: str, name: str) -> None:
    database = Database(database_url, service="test")

    async def dropped() -> bool:
        async with database.transaction() as connection:
            query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'chunk'::regclass"
            return list((await connection.execute(text(query))).scalars()) == [name]

    try:
        await eventually(dropped, what=f"{name} to be the only index stored")
    finally:
        await database.close()


async def test_f1_a_killed_replicas_build_goes_on_where_it_was(embedder: Embedder, event_tap: EventTap) -> None:
    await embedder.create()
    plane, (first, second) = embedder.plane, embedder.replicas
    await second.stop()
    embedder.replicas = [first]
    plane.stop_after = 12
    plane.may_embed.clear()
    build = await embedder.build(*(f"d{number} is about a rose" for number in range(24)))

    async def stuck() -> bool:
        found = await embedder.call("GetIndexBuild", name=build.name)
        return found.index_build.progress.done == 12

    await eventually(stuck, what="half of the chunks to be stored")
    await first.kill()
    plane.stop_after = 1_000_000
    plane.may_embed.set()
    await second.start()
    embedder.replicas = [second]
    done = (await embedder.watch(build))[-1]
    assert done.state == collection_pb2.IndexBuild.STATE_SUCCEEDED, done.error.message
    assert done.progress.total == 24
    assert len(plane.embedded) == 24
    assert plane.embedded.total() <= 24 + 4, "only the batch in flight may be embedded twice"
    await event_tap.wait_for(CollectionRefreshed)
    assert len((await embedder.search("rose", top_k=100)).passages) == 24
    assert len(event_tap.of(CollectionRefreshed)) == 1


async def test_b9_f10_f16_a_build_that_cannot_be_says_why_and_leaves_the_index_before(
    embedder: Embedder, event_tap: EventTap, database_url: str
) -> None:
    await embedder.create()
    await embedder.watch(await embedder.build("rose is a rose"))

    async def fails_with(reason: str, words: str, build: collection_pb2.IndexBuild) -> None:
        failed = (await embedder.watch(build))[-1]
        assert failed.state == collection_pb2.IndexBuild.STATE_FAILED
        assert reason in str(failed.error)
        assert words in failed.error.message

    await fails_with("NO_DOCUMENTS", "NOT_JSON 1", await embedder.build(more=b"rose, violet"))
    await fails_with("TOO_MANY_LINES_REFUSED", "line 2", await embedder.build("sky", more=b"\n{}"))
    missing = artifact_to_proto(await embedder.store.put_bytes("q", b"another project's"))
    answer = await embedder.call("CreateIndexBuild", parent=NAME, documents=missing)
    await fails_with("ARTIFACT_NOT_FOUND", missing.sha256, answer.index_build)
    embedder.plane.refused = True
    await fails_with("DEPLOYMENT_FAILED", "bad weights", await embedder.build("sky"))
    embedder.plane.refused = False
    found = await embedder.search("rose")
    assert (found.index, found.passages[0].document_id) == (1, "rose")
    embedder.plane.away_for = 12
    done = (await embedder.watch(await embedder.build("sky is back", more=b"\n\n")))[-1]
    assert done.state == collection_pb2.IndexBuild.STATE_SUCCEEDED, done.error.message
    assert (await embedder.search("rose")).index == done.index == 6
    await event_tap.wait_for(CollectionRefreshed, count=2)
    assert len(event_tap.of(CollectionRefreshed)) == 2
    await _only_partition_left(database_url, "chunk_6")


async def test_texts_are_embedded_once_the_model_is_there(embedder: Embedder) -> None:
    fields: dict[str, Any] = {"parent": "projects/p", "texts": ["a rose", "the sky"]}
    embedder.plane.loads = False
    with pytest.raises(Unavailable) as caught:
        await embedder.call("EmbedTexts", embedding_model_version=VERSION, **fields)
    assert (caught.value.reason, caught.value.retry_after_s) == ("MODEL_LOADING", 2.0)
    assert list(embedder.plane.deployment.holders) == ["projects/p/embedder"]
    await embedder.plane.load()

    async def embedded() -> Any:
        try:
            return await embedder.call("EmbedTexts", embedding_model_version=MODEL, **fields)
        except Unavailable:
            return None

    answer = await eventually(embedded)
    assert answer.embedding_model_version == VERSION
    assert [sum(x * x for x in vector.values) for vector in answer.vectors] == [pytest.approx(1)] * 2
    assert answer.vectors[0].values[0] > 0.9
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 0)
    await embedder.plane.unload()

    async def gone() -> bool:
        return (await embedded()) is None

    await eventually(gone, what="both replicas to see that the model has left memory")
    with pytest.raises(NotFound):
        await embedder.call("EmbedTexts", embedding_model_version=f"{MODEL}/versions/9", **fields)
    with pytest.raises(InvalidInput):
        await embedder.call("EmbedTexts", embedding_model_version=MODEL, parent="projects/p", texts=[])


async def test_requests_are_checked_and_a3_other_projects_are_not_seen(embedder: Embedder) -> None:
    await embedder.create()
    with pytest.raises(AlreadyExists):
        await embedder.create()
    request_id = new_id()
    both = [await embedder.build("rose is a rose", request_id=request_id) for _ in range(2)]
    assert both[0].name == both[1].name
    await embedder.watch(both[0])
    for method, fields in (
        ("GetCollection", {"name": NAME}),
        ("SearchCollection", {"name": NAME, "query": "rose"}),
        ("GetIndexBuild", {"name": both[0].name}),
        ("ListIndexBuilds", {"parent": NAME}),
        ("EmbedTexts", {"parent": "projects/p", "embedding_model_version": VERSION, "texts": ["x"]}),
    ):
        with pytest.raises(NotFound):
            await embedder.call(method, caller=embedder.stranger, **fields)
    with pytest.raises(InvalidInput):
        await embedder.search("")
    with pytest.raises(InvalidInput):
        await embedder.search("rose", top_k=101)
    with pytest.raises(NotFound):
        await embedder.call("SearchCollection", name="projects/p/collections/none", query="rose")
