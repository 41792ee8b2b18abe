"""What the bus has heard of a service against what the service's own database remembers (faults.md F22).

A service writes every event into its outbox with the change that it tells of. So an event of its own in the stream that
the outbox does not know was told by a database that is gone: this one is an older copy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from mainspring_eventkit.bus import Bus
from mainspring_eventkit.catalog import filter_of
from mainspring_eventkit.cloudevents import Event, UndecodableEvent, decode
from mainspring_eventkit.outbox import RETENTION
from mainspring_svckit.database import Database
from mainspring_svckit.logs import get_logger

# Of events older than the retention time nobody can say whether the outbox has never known or forgotten them.
_REMEMBERED = text(
    "SELECT EXISTS (SELECT FROM outbox WHERE id = cast(:id AS uuid))"  # noqa: S608 - a constant.
    f" OR cast(:time AS timestamptz) < now() - interval '{RETENTION}'"
)
_MARK = text("SELECT max(stream_sequence) FROM outbox WHERE publish_time IS NOT NULL AND stream_epoch = :epoch")
_PUT_BACK = text(
    "INSERT INTO outbox (id, project, type, source, subject, aggregate, cycle, traceparent, data, time, publish_time,"
    " stream_epoch, stream_sequence) VALUES (cast(:id AS uuid), :project, :type, :source, :subject, :aggregate, :cycle,"
    " :traceparent, :data, :time, clock_timestamp(), :epoch, :sequence) ON CONFLICT (id) DO NOTHING"
)
log = get_logger(__name__)


@dataclass(frozen=True)
class Told:
    """An event as it lies in the stream.

    Attributes:
        event: The event.
        body: Its bytes, as text.
        sequence: Its place.
        epoch: When the stream was made.
    """

    event: Event
    body: str
    sequence: int
    epoch: str


class StreamMemory:
    """Reads a service's own events. Joins the ambient transaction."""

    def __init__(self, database: Database, bus: Bus, service: str, area: str) -> None:
        """Takes the service's name, as in its events' source, and the first part of their types."""
        self._database, self._bus = database, bus
        self._source, self._area = f"/services/{service}", f"{area}.>"

    async def unknown(self, *, whole: bool) -> AsyncIterator[Told]:
        """Events of the service that its outbox does not know, in the order of the stream.

        Args:
            whole: Whether to look at the whole stream, or only behind the newest event that the outbox knows a place
                of; the second costs little and finds whatever a database lost that went back in time.
        """
        stream = await self._bus.stream()
        mark = 0 if whole else await self._database.connection().scalar(_MARK, {"epoch": stream.epoch}) or 0
        async for told in self.events(self._area, after=mark):
            known = {"id": told.event.id, "time": told.event.time}
            if told.event.source == self._source and not await self._database.connection().scalar(_REMEMBERED, known):
                yield told

    async def events(self, pattern: str, *, after: int) -> AsyncIterator[Told]:
        """Every event of a type, or of a pattern that ends in `>`, behind a place of the stream, until its end."""
        stream, subject = await self._bus.stream(), filter_of(pattern)
        while (message := await self._bus.next_message(subject, after)) is not None:
            after, body = message.sequence, message.body
            try:
                event = decode(message.headers, body)
                UUID(event.id)
                yield Told(event, body.decode(), after, stream.epoch)
            except (UndecodableEvent, ValueError) as err:
                log.warning("event_unreadable", sequence=after, error=type(err).__name__)

    async def put_back(self, told: Told, aggregate: str) -> None:
        """Gives an event back to the outbox, as one that was published: it is known from now on, and told again only
        if the stream should lose it.
        """
        event = told.event
        await self._database.connection().execute(
            _PUT_BACK,
            {
                "id": event.id,
                "project": event.project,
                "type": event.type,
                "source": event.source,
                "subject": event.subject,
                "aggregate": aggregate,
                "cycle": event.cycle,
                "traceparent": event.traceparent,
                "data": told.body,
                "time": event.time,
                "epoch": told.epoch,
                "sequence": told.sequence,
            },
        )
