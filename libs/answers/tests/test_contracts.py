"""The answer path's ports, each by one suite over the fake and the real thing; `services/inference` runs that of the
engine over Triton.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text

from mainspring.embedding.v1 import collection_pb2, embedding_service_pb2
from mainspring_answers.context import EmbedderContext
from mainspring_answers.ledger import OutboxLedger
from mainspring_answers.routing import RoutingFollower, RoutingPublisher
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.outbox import Outbox
from mainspring_svckit.database import Database
from mainspring_svckit.errors import NotFound
from mainspring_testkit.answer_path import FakeContext, FakeEngine, FakeLedger, FakeRoutes
from mainspring_testkit.contracts.answer_path import (
    ContextContract,
    EngineContract,
    LedgerContract,
    RoutingContract,
)
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.plugin import DatabaseFor

COLLECTION = "projects/p/collections/c"


class TestFakeEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> FakeEngine:
        made = FakeEngine()
        made.gone = {"gone"}
        return made

    @pytest.fixture
    def model(self) -> str:
        return "m"

    @pytest.fixture
    def missing(self) -> str:
        return "gone"

    @pytest.fixture
    def too_long(self) -> str:
        return "word " * 50_000


class TestFakeRoutes(RoutingContract):
    @pytest.fixture
    def board(self) -> FakeRoutes:
        return FakeRoutes()

    @pytest.fixture
    def routes(self, board: FakeRoutes) -> FakeRoutes:
        return board


class TestRoutingBucket(RoutingContract):
    @pytest.fixture
    def board(self, bus: Bus) -> RoutingPublisher:
        return RoutingPublisher(bus)

    @pytest.fixture
    async def routes(self, bus: Bus) -> AsyncIterator[RoutingFollower]:
        follower = RoutingFollower(bus)
        running = asyncio.create_task(follower.run())
        await asyncio.wait_for(follower.loaded.wait(), 10)
        await follower.check()
        yield follower
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Embedder:
    """The embedder with one collection, which always finds the same."""

    async def SearchCollection(self, request: Any, context: Any) -> Any:
        if request.name != COLLECTION:
            raise NotFound("Collection", request.name)
        found = [
            collection_pb2.Passage(
                document_id=f"d{n}", title="T", uri=f"http://d/{n}", text=f"about {request.query}", score=1 / n
            )
            for n in range(1, request.top_k + 1)
        ]
        return embedding_service_pb2.SearchCollectionResponse(passages=found)


class OnCollections(ContextContract):
    @pytest.fixture
    def collection(self) -> str:
        return COLLECTION

    @pytest.fixture
    def missing(self) -> str:
        return "projects/p/collections/missing"


class TestFakeContext(OnCollections):
    @pytest.fixture
    def context(self, missing: str) -> FakeContext:
        made = FakeContext()
        made.missing = {missing}
        return made


class TestEmbedderContext(OnCollections):
    @pytest.fixture
    async def context(self, neighbours: ServeNeighbours) -> EmbedderContext:
        embedder = await neighbours(Embedder(), "embedding.v1.EmbeddingService")
        return EmbedderContext(embedder.channel, embedder.caller)


class TestFakeLedger(LedgerContract):
    @pytest.fixture
    def ledger(self) -> FakeLedger:
        return FakeLedger()

    @pytest.fixture
    def recorded(self, ledger: FakeLedger) -> Callable[[], Awaitable[list[str]]]:
        async def names() -> list[str]:
            return [answer.name for answer in ledger.answers]

        return names


class TestOutboxLedger(LedgerContract):
    @pytest.fixture
    async def database(self, database_for: DatabaseFor) -> Database:
        return await database_for("mainspring_testkit.platform")

    @pytest.fixture
    def ledger(self, database: Database) -> OutboxLedger:
        return OutboxLedger(database, Outbox(database, "inference"))

    @pytest.fixture
    def recorded(self, database: Database) -> Callable[[], Awaitable[list[str]]]:
        async def names() -> list[str]:
            async with database.transaction() as connection:
                return list((await connection.scalars(text("SELECT subject FROM outbox"))).all())

        return names
