"""A database against what the bus has heard of its service, on real Postgres and real NATS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from mainspring.events.v1.registry_events_pb2 import ModelReleased
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.catalog import subject_of, type_of
from mainspring_eventkit.cloudevents import encode_body, headers_of
from mainspring_eventkit.memory import StreamMemory
from mainspring_eventkit.outbox import CHANNEL, Outbox, Relay
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.ids import new_id
from mainspring_testkit.events import publish
from mainspring_testkit.plugin import DatabaseFor
from mainspring_testkit.servers import NatsServer
from mainspring_testkit.waiting import eventually

MODEL = "projects/p/models/m"
PLATFORM = "mainspring_testkit.platform"


def released(number: int) -> ModelReleased:
    return ModelReleased(release=f"{MODEL}/releases/{number}", model=MODEL, release_number=number)


async def emit(database: Database, *numbers: int) -> None:
    outbox = Outbox(database, "registry")
    async with database.transaction():
        for number in numbers:
            await outbox.emit(released(number), aggregate=MODEL)


async def unpublished(database: Database) -> int:
    async with database.transaction() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM outbox WHERE publish_time IS NULL")) or 0)


@asynccontextmanager
async def relaying(database: Database, bus: Bus) -> AsyncIterator[None]:
    """Publishes what the database holds; at the end everything is."""
    listener = Listener(database.url, (CHANNEL,))
    tasks = [
        asyncio.create_task(listener.run()),
        asyncio.create_task(Relay(database, listener, bus, Outbox(database, "registry"), poll_s=0.1).run()),
    ]

    async def idle() -> bool:
        return await unpublished(database) == 0

    try:
        yield
        await eventually(idle, within_s=60, what="everything to be published")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def unknown(database: Database, bus: Bus, *, whole: bool = False) -> list[str]:
    async with database.transaction():
        memory = StreamMemory(database, bus, "registry", "mainspring.registry")
        return [told.event.subject.rsplit("/", 1)[-1] async for told in memory.unknown(whole=whole)]


async def test_f22_an_older_copy_finds_what_it_does_not_know_and_knows_it_once_it_is_put_back(
    database_for: DatabaseFor, bus: Bus
) -> None:
    newer, older = await database_for(PLATFORM), await database_for(PLATFORM)
    assert await unknown(newer, bus) == []  # Nothing was ever told.
    await emit(newer, 1, 2)
    async with newer.transaction() as connection:
        rows = (await connection.execute(text("SELECT * FROM outbox ORDER BY seq"))).mappings().all()
    async with older.transaction() as connection:  # The copy: both events are written, none is published yet.
        for row in rows:
            await connection.execute(
                text(
                    "INSERT INTO outbox (id, project, type, source, subject, aggregate, cycle, traceparent, data, time)"
                    " VALUES (:id, :project, :type, :source, :subject, :aggregate, :cycle, :traceparent, :data, :time)"
                ),
                dict(row),
            )
    async with relaying(newer, bus):
        await emit(newer, 3)
    await publish(bus, released(4))  # Somebody else's, by the source that it names.
    assert (await unknown(newer, bus), await unknown(newer, bus, whole=True)) == ([], [])
    assert await unknown(older, bus) == ["3"]

    memory = StreamMemory(older, bus, "registry", "mainspring.registry")
    async with older.transaction():
        async for told in memory.unknown(whole=True):
            await memory.put_back(told, MODEL)
            await memory.put_back(told, MODEL)
    assert (await unknown(older, bus), await unknown(older, bus, whole=True)) == ([], [])
    last = (await bus.stream()).last
    async with relaying(older, bus):
        pass
    # The two that the copy had not published are known to the bus by their ids; the third is not told again.
    assert (await bus.stream()).last == last


async def test_f22_f24_a_bus_that_lost_its_disk_is_not_newer_and_still_gets_what_was_put_back(
    database_for: DatabaseFor, bus: Bus, nats_server: NatsServer
) -> None:
    newer, older = await database_for(PLATFORM), await database_for(PLATFORM)
    async with relaying(newer, bus):
        await emit(newer, 1, 2)
    memory = StreamMemory(older, bus, "registry", "mainspring.registry")
    async with older.transaction():
        async for told in memory.unknown(whole=False):
            await memory.put_back(told, MODEL)
    await nats_server.kill()
    nats_server.wipe()
    await nats_server.start()

    async def back() -> bool:
        with suppress(Unavailable):
            await bus.ping()
            return True
        return False

    await eventually(back, within_s=60, what="the bus")
    assert await unknown(older, bus) == []

    async def told_again() -> bool:
        return (await bus.stream()).last == 2

    async with relaying(older, bus):
        await eventually(told_again, within_s=60, what="both events in the new stream")
    assert await unknown(older, bus, whole=True) == []


async def test_f22_events_that_the_outbox_may_have_forgotten_prove_nothing(database_for: DatabaseFor, bus: Bus) -> None:
    database = await database_for(PLATFORM)

    async def tell(number: int, time: datetime) -> None:
        data, id_ = released(number), new_id()
        headers = headers_of(
            id=id_, type=type_of(data), source="/services/registry", subject=data.release, project="p", cycle="",
            time=time, traceparent="",
        )  # fmt: skip
        await bus.publish(subject_of("p", type_of(data)), encode_body(data).encode(), headers, message_id=id_)

    await tell(1, datetime.now(UTC) - timedelta(days=31))
    assert await unknown(database, bus) == []
    await tell(2, datetime.now(UTC))
    assert await unknown(database, bus) == ["2"]
