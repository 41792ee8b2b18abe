"""The ports of svckit, each by one suite over the fake and over the real thing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.clock import SystemClock
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.values import ArtifactRef
from mainspring_svckit.work import CHANNEL, Lease, Worker, WorkQueue
from mainspring_testkit.contracts.artifacts import (
    ArtifactsContract,
    Damage,
    FileArtifactsContract,
    StreamedArtifactsContract,
)
from mainspring_testkit.contracts.small import (
    ClockContract,
    Listen,
    NotifierContract,
    TransactionsContract,
)
from mainspring_testkit.contracts.work import ClaimContract, Queued, WorkContract
from mainspring_testkit.fakes import (
    FakeArtifacts,
    FakeClock,
    FakeLease,
    FakeNotifier,
    FakeTransactions,
    FakeWork,
)
from mainspring_testkit.plugin import DatabaseFor
from mainspring_testkit.waiting import eventually

PLATFORM = "mainspring_testkit.platform"


@pytest.fixture
async def database(database_for: DatabaseFor) -> Database:
    return await database_for(PLATFORM)


@pytest.fixture
async def listener(database: Database) -> AsyncIterator[Listener]:
    made = Listener(database.url, (CHANNEL, "watch"))
    running = asyncio.create_task(made.run())
    with made.subscribe("watch", "is it there") as ear:

        async def hears() -> bool:
            async with database.transaction():
                await database.notify("watch", "is it there")
            return await ear.wait(0.1)

        await eventually(hears, what="the listener to listen")
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class OnFakes:
    @pytest.fixture
    def transaction(self) -> Any:
        return FakeTransactions().transaction


class OnPostgres:
    @pytest.fixture
    def transaction(self, database: Database) -> Any:
        return database.transaction


class TestFakeArtifacts(ArtifactsContract, FileArtifactsContract, StreamedArtifactsContract):
    @pytest.fixture(params=[2, 1 << 20])
    def artifacts(self, request: pytest.FixtureRequest) -> FakeArtifacts:
        made = FakeArtifacts()
        made.chunk_bytes = request.param
        return made

    @pytest.fixture
    def damage(self, artifacts: FakeArtifacts) -> Damage:
        async def flip(artifact: ArtifactRef) -> None:
            artifacts.damage(artifact)

        return flip


class TestArtifactStore(ArtifactsContract, FileArtifactsContract, StreamedArtifactsContract):
    @pytest.fixture
    def artifacts(self, artifact_url: str) -> ArtifactStore:
        return ArtifactStore(artifact_url)

    @pytest.fixture
    def damage(self, artifact_url: str) -> Damage:
        async def flip(artifact: ArtifactRef) -> None:
            root = Path(artifact_url.removeprefix("file://"))
            (path,) = root.glob(f"projects/p/**/{artifact.sha256}")
            path.write_bytes(bytes(len(path.read_bytes())))

        return flip


class TestFakeWork(OnFakes, WorkContract):
    @pytest.fixture
    def work(self) -> FakeWork:
        return FakeWork()

    @pytest.fixture
    def queued(self, work: FakeWork) -> Queued:
        async def waiting() -> Mapping[tuple[str, str], Mapping[str, Any]]:
            return work.queued

        return waiting


class TestWorkQueue(OnPostgres, WorkContract):
    @pytest.fixture
    def work(self, database: Database) -> WorkQueue:
        return WorkQueue(database)

    @pytest.fixture
    def queued(self, database: Database) -> Queued:
        async def waiting() -> Mapping[tuple[str, str], Mapping[str, Any]]:
            async with database.transaction() as connection:
                rows = await connection.execute(text("SELECT kind, key, payload FROM work WHERE state = 'ready'"))
                return {(row.kind, row.key): row.payload for row in rows.all()}

        return waiting


class TestFakeLease(ClaimContract):
    @pytest.fixture
    def claim(self) -> FakeLease:
        return FakeLease()

    @pytest.fixture
    def lose(self, claim: FakeLease) -> Callable[[], Awaitable[None]]:
        async def lost() -> None:
            claim.lost = True

        return lost

    @pytest.fixture
    def completed(self, claim: FakeLease) -> Callable[[], Awaitable[bool]]:
        async def done() -> bool:
            return claim.completed

        return done

    async def test_it_is_lost_after_as_many_transactions_as_it_is_told(self) -> None:
        claim = FakeLease(lasts=1)
        async with claim.transaction():
            pass
        await self.test_f13_who_lost_it_writes_nothing(claim, _nothing, _no)


async def _nothing() -> None:
    """Loses nothing."""


async def _no() -> bool:
    return False


class TestLease(ClaimContract):
    @pytest.fixture
    async def claim(self, database: Database, listener: Listener) -> AsyncIterator[Lease]:
        """What a worker's handler gets; the handler itself waits until the test has ended."""
        claimed: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()

        async def handle(lease: Lease) -> None:
            claimed.set_result(lease)
            await asyncio.Event().wait()

        async def exhausted(lease: Lease, error: Exception) -> None:
            raise AssertionError(f"{lease.item.key} was given up: {error}")

        async with database.transaction():
            await WorkQueue(database).enqueue("job", "k")
        worker = Worker(database, listener, "job", handle, on_exhausted=exhausted, lease_s=600)
        working = asyncio.create_task(worker.run())
        yield await asyncio.wait_for(claimed, 10)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    @pytest.fixture
    def lose(self, database: Database, claim: Lease) -> Callable[[], Awaitable[None]]:
        async def taken() -> None:
            async with database.transaction() as connection:
                await connection.execute(text("UPDATE work SET lease_token = lease_token + 1"))

        return taken

    @pytest.fixture
    def completed(self, database: Database, claim: Lease) -> Callable[[], Awaitable[bool]]:
        async def done() -> bool:
            async with database.transaction() as connection:
                return await connection.scalar(text("SELECT state FROM work")) == "done"

        return done


class TestFakeTransactions(TransactionsContract):
    @pytest.fixture
    def transactions(self) -> FakeTransactions:
        return FakeTransactions()


class TestDatabase(TransactionsContract):
    @pytest.fixture
    def transactions(self, database: Database) -> Database:
        return database


class FakeEar:
    """Hears what a fake notifier was told since."""

    def __init__(self, notifier: FakeNotifier, channel: str, payload: str) -> None:
        self._notifier, self._wanted, self._seen = notifier, (channel, payload), len(notifier.sent)

    async def wait(self, timeout_s: float) -> bool:
        del timeout_s
        heard = self._wanted in self._notifier.sent[self._seen :]
        self._seen = len(self._notifier.sent)
        return heard


class TestFakeNotifier(OnFakes, NotifierContract):
    @pytest.fixture
    def notifier(self) -> FakeNotifier:
        return FakeNotifier()

    @pytest.fixture
    def listen(self, notifier: FakeNotifier) -> Listen:
        @contextmanager
        def ear(channel: str, payload: str) -> Iterator[FakeEar]:
            yield FakeEar(notifier, channel, payload)

        return ear


class TestPostgresNotifier(OnPostgres, NotifierContract):
    @pytest.fixture
    def notifier(self, database: Database) -> Database:
        return database

    @pytest.fixture
    def listen(self, listener: Listener) -> Listen:
        return listener.subscribe


class TestFakeClock(ClockContract):
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()


class TestSystemClock(ClockContract):
    @pytest.fixture
    def clock(self) -> SystemClock:
        return SystemClock()
