"""Lineage down to sources and rows: data-ingest's part by one contract, what the registry makes of it, and the RPCs."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mainspring.common.v1 import artifact_pb2, chat_pb2, progress_pb2
from mainspring.data.v1 import (
    comparison_pb2,
    data_service_pb2,
    dataset_pb2,
    erasure_pb2,
    erasure_service_pb2,
    version_service_pb2,
)
from mainspring.events.v1.data_events_pb2 import DatasetVersionPublished
from mainspring.events.v1.registry_events_pb2 import ModelVersionRegistered
from mainspring.registry.v1 import lineage_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_eventkit.bus import Bus
from mainspring_registry.adapters.data import DataIngestCatalogue
from mainspring_registry.application.lineage import Lineages, Trace
from mainspring_registry.application.ports import DataCatalogue
from mainspring_registry.domain.data import (
    DatasetFacts,
    DataSource,
    RowsWish,
    Search,
    ShownData,
    Sought,
    SourcedRow,
    TracedVersion,
)
from mainspring_registry.domain.lineage import Direction, Edge, Relation
from mainspring_svckit.errors import InvalidInput, NotFound, PermissionDenied, PreconditionFailed, Unavailable
from mainspring_svckit.pagination import Page, next_page_token
from mainspring_svckit.status import to_status
from mainspring_svckit.values import Message
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import Surroundings
from mainspring_testkit.waiting import eventually

from .fakes import FakeData
from .processes import MODEL, start_registry
from .world import World

UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM
DIGEST = "a" * 64
SOURCE, FILE = f"projects/p/sources/{DIGEST}", DataSource(f"projects/p/sources/{DIGEST}", "e2e.csv", "text/csv", 7)
DATA, GONE = "projects/p/datasets/d/versions/1", "projects/p/datasets/d/versions/2"
INGESTION, RECIPE = "projects/p/ingestions/i", "projects/p/ingestionRecipes/e2e"
RECIPE_VERSION = f"{RECIPE}/versions/3"
RUN, V1 = "projects/p/trainingRuns/r1", "projects/p/models/m/versions/1"
FACTS = DatasetFacts(DATA, INGESTION, RECIPE, (FILE,), recipe_version=RECIPE_VERSION)
WISH = RowsWish("", 2, "")


def row(number: int) -> SourcedRow:
    messages = (Message("user", f"q{number}"), Message("assistant", f"a{number}"))
    return SourcedRow(f"{number:064x}", "SPLIT_TRAIN", messages, 0, number + 1)


ROWS = [row(number) for number in range(3)]
LEARNED = (Edge(DATA, RUN, Relation.TRAINED_ON), Edge(RUN, V1, Relation.PRODUCED_BY))


class DataIngest:
    """Data-ingest as it answers by its RPCs: one version that is there, one whose rows are deleted."""

    def __init__(self) -> None:
        self.selectors: list[erasure_pb2.ErasureSelector] = []
        self.failing = False
        self.breaks = 0

    async def GetDatasetVersion(self, request: Any, context: Any) -> Any:
        if request.name not in {DATA, GONE}:
            raise NotFound("DatasetVersion", request.name)
        file = artifact_pb2.Artifact(sha256=DIGEST, filename="e2e.csv", media_type="text/csv", size_bytes=7)
        version = dataset_pb2.DatasetVersion(
            name=request.name,
            ingestion=INGESTION,
            ingestion_recipe=RECIPE,
            ingestion_recipe_version=RECIPE_VERSION,
            sources=[file],
        )
        return data_service_pb2.GetDatasetVersionResponse(dataset_version=version)

    async def ListDatasetRows(self, request: Any, context: Any) -> Any:
        if request.parent == GONE:
            raise PreconditionFailed("DATASET_VERSION_DELETED", "its rows are deleted")
        begin = int(Page.of(request.page_size, request.page_token, request.parent).after or "0")
        end = begin + request.page_size
        role = chat_pb2.ChatMessage
        rows = [
            comparison_pb2.DatasetRow(
                row_id=one.row_id,
                split=dataset_pb2.SPLIT_TRAIN,
                line=one.line,
                messages=[
                    role(role=role.ROLE_USER, content=one.messages[0].content),
                    role(role=role.ROLE_ASSISTANT, content=one.messages[1].content),
                ],
            )
            for one in ROWS[begin:end]
        ]
        token = next_page_token(str(end) if end < len(ROWS) else None, request.parent)
        return version_service_pb2.ListDatasetRowsResponse(rows=rows, next_page_token=token)

    async def CreateErasure(self, request: Any, context: Any) -> Any:
        assert request.search_only, "a trace never erases"
        if 0 < len(request.selector.text) < 3:
            raise InvalidInput("it would be found everywhere")
        self.selectors.append(request.selector)
        return erasure_service_pb2.CreateErasureResponse(erasure=erasure_pb2.Erasure(name="projects/p/erasures/e"))

    async def WatchErasure(self, request: Any, context: Any) -> AsyncIterator[Any]:
        def update(done: int, phase: str, **fields: Any) -> Any:
            progress = progress_pb2.Progress(done=done, total=2, unit="versions", phase=phase)
            work = erasure_pb2.Erasure(name=request.name, progress=progress, **fields)
            return erasure_service_pb2.WatchErasureResponse(erasure=work)

        yield update(0, "searching", state=erasure_pb2.Erasure.STATE_RUNNING)
        if self.breaks:
            self.breaks -= 1
            raise Unavailable("RESTARTING", "the connection breaks")
        if self.failing:
            error = to_status(PreconditionFailed("ROWS_CORRUPT", "restore it from a copy"))
            yield update(1, "searching", state=erasure_pb2.Erasure.STATE_FAILED, error=error)
            return
        yield update(
            2,
            "searched",
            state=erasure_pb2.Erasure.STATE_SUCCEEDED,
            searched_versions=2,
            versions=[erasure_pb2.ErasedVersion(dataset_version=DATA, erased_rows=1, erased_sources=1)],
            presumed_versions=[GONE],
        )


class DataContract:
    """What every `DataCatalogue` does; subclasses give the fixture `catalogue`."""

    async def test_it_says_how_a_version_came_to_be(self, catalogue: DataCatalogue) -> None:
        assert await catalogue.facts(DATA) == FACTS
        with pytest.raises(NotFound):
            await catalogue.facts("projects/p/datasets/d/versions/9")

    async def test_rows_come_a_page_at_a_time(self, catalogue: DataCatalogue) -> None:
        first, token = await catalogue.rows(DATA, 2, "")
        rest, end = await catalogue.rows(DATA, 2, token)
        assert ([*first, *rest], end) == (ROWS, "")
        with pytest.raises(InvalidInput):
            await catalogue.rows(DATA, 2, "nonsense")

    async def test_rows_that_are_deleted_are_told_apart(self, catalogue: DataCatalogue) -> None:
        assert (await catalogue.facts(GONE)).sources == (FILE,)
        with pytest.raises(PreconditionFailed) as caught:
            await catalogue.rows(GONE, 2, "")
        assert caught.value.reason == "DATASET_VERSION_DELETED"

    async def test_a_search_tells_how_far_it_is_and_what_it_found(self, catalogue: DataCatalogue) -> None:
        *on_the_way, last = [search async for search in catalogue.search("p", Sought(text="ada"))]
        assert [search.ended for search in on_the_way] == [False] * len(on_the_way)
        assert (last.ended, last.searched, last.progress.total) == (True, 2, 2)
        assert last.versions == (TracedVersion(DATA, 1, 0, 1), TracedVersion(GONE, presumed=True))
        with pytest.raises(InvalidInput):
            [search async for search in catalogue.search("p", Sought(text="a"))]


class TestFakeData(DataContract):
    @pytest.fixture
    def catalogue(self) -> FakeData:
        made = FakeData(FACTS, DatasetFacts(GONE, INGESTION, RECIPE, (FILE,)), rows=ROWS)
        made.deleted, made.found = {GONE}, (TracedVersion(DATA, 1, 0, 1), TracedVersion(GONE, presumed=True))
        return made


class TestDataIngestCatalogue(DataContract):
    @pytest.fixture
    async def ingest(self) -> DataIngest:
        return DataIngest()

    @pytest.fixture
    async def catalogue(self, neighbours: ServeNeighbours, ingest: DataIngest) -> DataIngestCatalogue:
        found = await served(neighbours, ingest)
        return DataIngestCatalogue(found.channel, found.caller)

    async def test_each_way_to_look_reaches_data_ingest(self, ingest: DataIngest, catalogue: DataCatalogue) -> None:
        for sought in (Sought(row_ids=(DIGEST,)), Sought(source_sha256=DIGEST)):
            assert [search async for search in catalogue.search("p", sought)][-1].ended
        assert list(ingest.selectors[0].rows.row_ids) == [DIGEST]
        assert ingest.selectors[1].source_sha256 == DIGEST

    async def test_f10_a_search_that_meets_a_damaged_shard_says_so(
        self, ingest: DataIngest, catalogue: DataCatalogue
    ) -> None:
        ingest.failing = True
        with pytest.raises(PreconditionFailed) as caught:
            [search async for search in catalogue.search("p", Sought(text="ada"))]
        assert caught.value.reason == "ROWS_CORRUPT"

    async def test_f15_a_search_whose_connection_breaks_is_looked_at_again_not_begun_again(
        self, ingest: DataIngest, catalogue: DataCatalogue
    ) -> None:
        ingest.breaks = 1
        assert [search async for search in catalogue.search("p", Sought(text="ada"))][-1].ended
        assert len(ingest.selectors) == 1


async def served(neighbours: ServeNeighbours, ingest: DataIngest) -> Any:
    services = ("data.v1.DataService", "data.v1.DatasetVersionService", "data.v1.ErasureService")
    return await neighbours(ingest, *services)


@pytest.fixture
def data() -> FakeData:
    return FakeData(FACTS, rows=ROWS)


@pytest.fixture
async def lineages(world: World, data: FakeData) -> Lineages:
    await world.ports.lineage.add(LEARNED)
    return Lineages(world.ports, world.catalogue, data)


async def test_what_the_graph_does_not_know_of_data_is_asked_for_once(lineages: Lineages, data: FakeData) -> None:
    for _ in range(2):
        walk = await lineages.walk(V1, UP, 0)
        assert {SOURCE, INGESTION, RECIPE} <= {node.name for node in walk.nodes}
    assert data.asked == [DATA]
    assert [node.name for node in (await lineages.walk(DATA, UP, 0)).nodes] == [
        DATA,
        RECIPE,
        RECIPE_VERSION,
        INGESTION,
        SOURCE,
    ]


async def test_what_a_walk_did_not_look_for_is_not_asked_for(lineages: Lineages, data: FakeData) -> None:
    await lineages.walk(V1, UP, 2)
    await lineages.walk(DATA, DOWN, 0)
    assert data.asked == []


async def test_f15_a_walk_stands_without_data_ingest(lineages: Lineages, data: FakeData) -> None:
    data.failure = Unavailable("SERVICE_UNAVAILABLE", "cannot be reached")
    walk = await lineages.walk(V1, UP, 0)
    assert [node.name for node in walk.nodes] == [V1, RUN, DATA]
    (shown,) = await lineages.show(walk, WISH)
    assert shown == ShownData(DATA, error_reason="SERVICE_UNAVAILABLE", error_message="cannot be reached")


async def test_rows_are_shown_with_their_source_a_page_at_a_time(lineages: Lineages) -> None:
    walk = await lineages.walk(V1, UP, 0)
    (first,) = await lineages.show(walk, WISH)
    assert (first.sources, first.rows) == ((FILE,), tuple(ROWS[:2]))
    (rest,) = await lineages.show(walk, RowsWish(DATA, 2, first.next_page_token))
    assert (rest.rows, rest.next_page_token) == (tuple(ROWS[2:]), "")


async def test_rows_that_are_deleted_leave_their_sources(lineages: Lineages, data: FakeData) -> None:
    data.deleted = {DATA}
    (shown,) = await lineages.show(await lineages.walk(V1, UP, 0), WISH)
    assert (shown.sources, shown.rows, shown.error_reason) == ((FILE,), (), "DATASET_VERSION_DELETED")


async def test_only_data_that_the_walk_goes_on_from_is_shown(lineages: Lineages, world: World) -> None:
    asked_from = Edge(GONE, "projects/p/evaluationRuns/e", Relation.ASKED_FROM)
    await world.ports.lineage.add([asked_from, Edge(V1, asked_from.target, Relation.MEASURED)])
    walk = await lineages.walk("projects/p/evaluationRuns/e", UP, 0)
    assert GONE in {node.name for node in walk.nodes}
    assert [shown.version for shown in await lineages.show(walk, WISH)] == [DATA]
    for wish, reason in (
        (RowsWish(GONE, 2, ""), "DATA_NOT_ON_THE_WALK"),
        (RowsWish("", 2, "token"), "DATASET_VERSION_MISSING"),
        (RowsWish(DATA, 2, "token"), "PAGE_TOKEN_INVALID"),
    ):
        with pytest.raises(InvalidInput) as caught:
            await lineages.show(walk, wish)
        assert caught.value.reason == reason


async def test_a_trace_walks_on_from_where_something_was_learned_from(lineages: Lineages, data: FakeData) -> None:
    refused = TracedVersion(GONE, refused_rows=1)
    data.found = (TracedVersion(DATA, rows=1), refused)
    first, last = [state async for state in lineages.trace("p", Sought(text="ada"))]
    assert isinstance(first, Search)
    assert isinstance(last, Trace)
    assert [node.name for node in last.walk.nodes] == [DATA, RUN, V1]
    assert last.search.versions == data.found
    data.found = (refused,)
    *_, last = [state async for state in lineages.trace("p", Sought(text="ada"))]
    assert isinstance(last, Trace)
    assert last.walk.nodes == ()


async def test_a_trace_without_data_ingest_says_what_is_missing(world: World) -> None:
    with pytest.raises(PreconditionFailed, match="data_ingest_address"):
        [state async for state in Lineages(world.ports, world.catalogue).trace("p", Sought(text="ada"))]


async def test_a3_a_dataset_version_of_another_projects_sources_is_refused(lineages: Lineages) -> None:
    with pytest.raises(InvalidInput) as caught:
        await lineages.published("q", FACTS)
    assert caught.value.reason == "PROJECTS_MIXED"


async def test_one_call_leads_from_a_version_to_its_rows_and_one_from_a_row_to_its_versions(
    surroundings: Surroundings,
    postgres: PostgresServer,
    artifact_url: str,
    tmp_path: Path,
    neighbours: ServeNeighbours,
    bus: Bus,
    event_tap: EventTap,
) -> None:
    ingest = DataIngest()
    address = (await served(neighbours, ingest)).address
    registry = await start_registry(
        surroundings, postgres, artifact_url, tmp_path, count=1, data_ingest_address=address
    )
    await registry.import_base()
    published = DatasetVersionPublished(
        dataset_version=DATA,
        dataset="projects/p/datasets/d",
        ingestion=INGESTION,
        ingestion_recipe=RECIPE,
        ingestion_recipe_version=RECIPE_VERSION,
        source_sha256s=[DIGEST],
    )
    # Of this one data-ingest itself knows nothing, so what is known of it came by the event.
    told = "projects/p/datasets/d/versions/3"
    for name in (DATA, told):
        published.dataset_version = name
        await publish(bus, published)

    async def heard() -> bool:
        with suppress(NotFound):
            return SOURCE in {node.name for node in (await registry.call("GetLineage", name=told)).nodes}
        return False

    await eventually(heard, what="the event to be in the graph")
    await publish(bus, await registry.run_succeeded(1))
    await event_tap.wait_for(ModelVersionRegistered, count=2)

    async def whole() -> Any:
        found = await registry.call("GetLineage", name=f"{MODEL}/versions/1")
        return found if SOURCE in {node.name for node in found.nodes} else None

    found = await eventually(whole, what="the dataset's sources to be on the walk")
    assert {INGESTION, RECIPE, RECIPE_VERSION, DATA, RUN} <= {node.name for node in found.nodes}
    assert list(found.data) == []
    edge = lineage_pb2.LineageEdge(source=SOURCE, target=DATA, relation=lineage_pb2.LineageEdge.RELATION_READ_FROM)
    assert edge in found.edges

    rows = lineage_pb2.LineageRows(page_size=2)
    (shown,) = (await registry.call("GetLineage", name=f"{MODEL}/versions/1", rows=rows)).data
    assert [(one.line, one.source, one.messages[1].content) for one in shown.rows] == [
        (1, SOURCE, "a0"),
        (2, SOURCE, "a1"),
    ]
    assert (shown.sources[0].filename, bool(shown.next_page_token)) == ("e2e.csv", True)

    stub: Any = pb_grpc.RegistryServiceStub(registry.replicas[0].channel)
    request = pb.TraceDataRequest(parent="projects/p", selector=erasure_pb2.ErasureSelector(text="ada"))
    contributor = surroundings.caller("contributor")
    states = [s async for s in contributor.stream(stub.TraceData, request, pb.TraceDataResponse)]
    assert (states[0].progress.phase, states[0].HasField("trace")) == ("searching", False)
    trace = states[-1].trace
    assert [(v.dataset_version, v.rows, v.presumed) for v in trace.versions] == [(DATA, 1, False), (GONE, 0, True)]
    assert {RUN, f"{MODEL}/versions/1"} <= {node.name for node in trace.nodes}

    viewer = surroundings.caller("viewer")
    with pytest.raises(PermissionDenied):
        await viewer.unary(stub.GetLineage, pb.GetLineageRequest(name=DATA, rows=rows), pb.GetLineageResponse)
    with pytest.raises(PermissionDenied):
        [s async for s in viewer.stream(stub.TraceData, request, pb.TraceDataResponse)]
    stranger = surroundings.caller("admin", project="q")
    with pytest.raises(NotFound):
        [s async for s in stranger.stream(stub.TraceData, request, pb.TraceDataResponse)]
