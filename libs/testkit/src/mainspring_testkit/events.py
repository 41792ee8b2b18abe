"""Events from and to services under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import asyncpg
from google.protobuf.message import Message
from nats.aio.msg import Msg

from mainspring_eventkit.bus import Bus
from mainspring_eventkit.catalog import resource_of, subject_of, type_of
from mainspring_eventkit.cloudevents import Event, decode, encode_body, headers_of
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import project_of
from mainspring_testkit.waiting import eventually

M = TypeVar("M", bound=Message)


async def publish(bus: Bus, data: Message, *, cycle: str = "", event_id: str | None = None) -> str:
    """Publishes an event as another service would; returns its id."""
    event_id = event_id or new_id()
    project = project_of(resource_of(data))
    assert project is not None
    headers = headers_of(
        id=event_id,
        type=type_of(data),
        source="/services/test",
        subject=resource_of(data),
        project=project,
        cycle=cycle,
        time=datetime.now(UTC),
        traceparent="",
    )
    await bus.publish(subject_of(project, type_of(data)), encode_body(data).encode(), headers, message_id=new_id())
    return event_id


@asynccontextmanager
async def committed_late(database_url: str, data: Message, aggregate: str) -> AsyncIterator[None]:
    """An event that takes its number in a service's outbox as the block begins, and is committed as it ends."""
    connection: Any = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO outbox (id, project, type, source, subject, aggregate, cycle, traceparent, data)"
                " VALUES (gen_random_uuid(), $1, $2, 'test', $3, $4, '', '', $5)",
                project_of(resource_of(data)),
                type_of(data),
                resource_of(data),
                aggregate,
                encode_body(data),
            )
            yield
    finally:
        await connection.close()


class EventTap:
    """Hears every event from now on."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def listen(self, bus: Bus) -> None:
        """Starts to hear."""

        async def heard(message: Msg) -> None:
            self.events.append(decode(message.headers, message.data))

        await bus.client.subscribe("mainspring.events.>", cb=heard)
        await bus.ping()

    def of(self, kind: type[M]) -> list[M]:
        """What was heard of one kind, each event once."""
        once = {event.id: event.data for event in self.events if isinstance(event.data, kind)}
        return [data for data in once.values() if isinstance(data, kind)]

    async def wait_for(self, kind: type[M], *, count: int = 1, within_s: float = 20) -> list[M]:
        """Waits until `count` events of one kind were heard."""

        async def enough() -> list[M] | None:
            heard = self.of(kind)
            return heard if len(heard) >= count else None

        found = await eventually(enough, within_s=within_s, what=f"{count} {kind.DESCRIPTOR.name} events")
        assert found is not None
        return found
