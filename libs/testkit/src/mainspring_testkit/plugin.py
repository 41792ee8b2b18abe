"""The pytest plug-in: fixtures over real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from mainspring_eventkit.bus import Bus
from mainspring_svckit.auth import LocalIssuer, TokenVerifier
from mainspring_svckit.database import Database
from mainspring_testkit.events import EventTap
from mainspring_testkit.neighbours import Neighbours, NeighbourServer, ServeNeighbours
from mainspring_testkit.servers import NatsServer, PostgresServer, scratch_folder
from mainspring_testkit.service import Surroundings
from mainspring_testkit.triton_server import TritonServer

if TYPE_CHECKING:
    from playwright.async_api import Browser

DatabaseFor = Callable[[str], Awaitable[Database]]
Token = Callable[..., str]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres() -> AsyncIterator[PostgresServer]:
    """One Postgres server for the session."""
    async with scratch_folder("postgres") as folder:
        server = PostgresServer(folder, synced=False)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def triton() -> AsyncIterator[TritonServer]:
    """One Triton without models for the session; tests choose names that no other test chooses, and unload what they
    loaded. A test that stops or kills it starts it again.
    """
    async with scratch_folder("triton") as folder:
        server = TritonServer(folder)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for the session; see `mainspring_testkit.browser.open_page`."""
    # A quarter of a second to import, and needed by few tests.
    from mainspring_testkit.browser import chromium

    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def nats_server() -> AsyncIterator[NatsServer]:
    """A NATS server of the test's own, with the whole topology."""
    async with scratch_folder("nats") as folder:
        server = NatsServer(folder)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection to the test's NATS server."""
    connected = await Bus.connect(nats_server.url, name="test")
    try:
        yield connected
    finally:
        await connected.close()


@pytest_asyncio.fixture(loop_scope="session")
async def database_for(postgres: PostgresServer) -> AsyncIterator[DatabaseFor]:
    """Makes an empty database, migrated for a service's package."""
    opened: list[Database] = []

    async def make(package: str) -> Database:
        database = Database(await postgres.new_database(package), service="test")
        opened.append(database)
        return database

    yield make
    for database in opened:
        await database.close()


@pytest.fixture(scope="session")
def issuer() -> LocalIssuer:
    """Issues callers' tokens."""
    return LocalIssuer.create()


@pytest.fixture(scope="session")
def verifier(issuer: LocalIssuer) -> TokenVerifier:
    """Verifies them."""
    return TokenVerifier(issuer.jwks(), "mainspring-local")


@pytest.fixture(scope="session")
def token(issuer: LocalIssuer) -> Token:
    """A caller's token: `token("viewer")`, `token("admin", project="p")`."""

    def make(*roles: str, project: str = "p", subject: str = "tester", lifetime_s: float = 600) -> str:
        return issuer.issue(subject, [project], roles, lifetime_s)

    return make


@pytest_asyncio.fixture(loop_scope="session")
async def neighbours(verifier: TokenVerifier, issuer: LocalIssuer) -> AsyncIterator[ServeNeighbours]:
    """Serves other services' RPCs by an object of the test's; see `NeighbourServer.start`."""
    servers: list[NeighbourServer] = []

    async def start(methods: object, *services: str) -> Neighbours:
        servers.append(NeighbourServer(verifier, issuer.issue("service:test", ["*"], ["service"], 3600)))
        return await servers[-1].start(methods, *services)

    yield start
    for server in servers:
        await server.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def event_tap(bus: Bus) -> EventTap:
    """Hears every event of the test."""
    tap = EventTap()
    await tap.listen(bus)
    return tap


@pytest_asyncio.fixture(loop_scope="session")
async def surroundings(
    tmp_path: Path, issuer: LocalIssuer, nats_server: NatsServer, artifact_url: str
) -> AsyncIterator[Surroundings]:
    """What a service needs around it; stops every replica that the test made."""
    made = Surroundings(tmp_path / "services", issuer, nats_server.url, artifact_url)
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
def artifact_url(tmp_path: Path) -> str:
    """An empty artifact store."""
    return f"file://{tmp_path / 'artifacts'}"
