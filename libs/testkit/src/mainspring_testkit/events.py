"""Events from and to services under test."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

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
