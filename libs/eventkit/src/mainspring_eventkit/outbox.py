"""The transactional outbox: an event is written with the change that it tells of, and published afterwards.

One relay at a time works for a database (an advisory lock); the others stand by. Events of one aggregate are published
in the order in which they were written: writers hold a lock on the aggregate's row while they emit, and the relay
publishes one aggregate's events one after the other. It looks for rows that are not published, never for rows above a
mark, so a transaction that commits late with a lower number is not skipped (faults.md F21).

Published rows stay for the retention time with their place in the stream. When the stream turns out to be new, or to
have gone back, the relay publishes again what the stream has lost (F24); consumers' inboxes make it one effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Any

from google.protobuf.message import Message
from prometheus_client import Counter, Gauge
from sqlalchemy import text

from mainspring_eventkit.bus import Bus, StreamState
from mainspring_eventkit.catalog import resource_of, subject_of, type_of
from mainspring_eventkit.cloudevents import encode_body, headers_of
from mainspring_svckit import telemetry
from mainspring_svckit.crash import crash_point
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import MainspringError, Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.logs import get_logger
from mainspring_svckit.names import project_of

CHANNEL = "outbox"
BATCH = 256
CAP = 100_000
_LOCK = 0x6F757462  # "outb"
RETENTION = "30 days"
_UNPUBLISH = (
    "UPDATE outbox SET publish_time = NULL, stream_epoch = NULL, stream_sequence = NULL"
    " WHERE publish_time IS NOT NULL AND"
)
log = get_logger(__name__)

BACKLOG = Gauge("mainspring_outbox_backlog_events", "Events that wait to be published.")
PUBLISHED = Counter("mainspring_outbox_published_total", "Events published.")
REPUBLISHED = Counter("mainspring_outbox_republished_total", "Events published again because the stream had lost them.")


class Outbox:
    """Writes events into the ambient transaction."""

    def __init__(self, database: Database, service: str) -> None:
        """Takes the service's name, for the events' source."""
        self._database = database
        self._source = f"/services/{service}"
        self.full = False

    async def emit(self, data: Message, *, cycle: str = "", aggregate: str = "") -> str:
        """Adds an event; returns its id.

        Args:
            data: The event's message; its type and subject follow from it.
            cycle: Turn of the loop.
            aggregate: What order is kept for; the caller holds a lock on its row. Default: the event's subject.

        Raises:
            Unavailable: OUTBOX_FULL, the bus has been away for so long that no more may pile up.
        """
        if self.full:
            raise Unavailable(
                "OUTBOX_FULL", f"{CAP} events wait for the bus; try again when it is back", retry_after_s=10
            )
        event_id, subject = new_id(), resource_of(data)
        project = project_of(subject)
        if project is None:
            raise ValueError(f"event {type_of(data)} is about {subject!r}, which is not a resource name")
        await self._database.connection().execute(
            text(
                "INSERT INTO outbox (id, project, type, source, subject, aggregate, cycle, traceparent, data) VALUES"
                " (:id, :project, :type, :source, :subject, :aggregate, :cycle, :traceparent, :data)"
            ),
            {
                "id": event_id,
                "project": project,
                "type": type_of(data),
                "source": self._source,
                "subject": subject,
                "aggregate": aggregate or subject,
                "cycle": cycle,
                "traceparent": telemetry.inject().get("traceparent", ""),
                "data": encode_body(data),
            },
        )
        await self._database.notify(CHANNEL, "")
        return event_id


class Relay:
    """Publishes what the outbox holds."""

    def __init__(
        self,
        database: Database,
        listener: Listener,
        bus: Bus,
        outbox: Outbox,
        *,
        poll_s: float = 5.0,
        may_publish: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """Takes what to relay, and who is asked before each batch: what a database that is older than the bus publishes
        would hide that it is.
        """
        self._may_publish = may_publish
        self._database, self._listener, self._bus, self._outbox, self._poll_s = database, listener, bus, outbox, poll_s
        self._epoch = ""
        self._highest = 0
        self._check_needed = True
        bus.on_reconnect(self._ask_for_check)

    async def run(self) -> None:
        """Relays until cancelled."""
        with self._listener.subscribe(CHANNEL) as wakeups:
            while True:
                published = 0
                try:
                    published = await self._turn() if await self._may() else 0
                except MainspringError as err:
                    log.warning("relay_failed", reason=err.reason)
                    await asyncio.sleep(0.5)
                if published < BATCH:
                    await wakeups.wait(self._poll_s)

    async def flush(self) -> None:
        """Publishes what is there now; for an orderly stop."""
        while await self._may() and await self._turn() == BATCH:
            pass

    async def _may(self) -> bool:
        return self._may_publish is None or await self._may_publish()

    async def _turn(self) -> int:
        """One batch; 0 when there is nothing or another relay works."""
        async with self._database.transaction() as connection:
            # The lock lasts for the transaction, so a relay that dies or hangs frees it with its connection.
            if not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK}):
                return 0
            # Nothing is published before the stream was looked at, so what it lost is a row of places with no gaps.
            if self._check_needed:
                await self._recover_lost()
                self._check_needed = False
            rows = (
                await connection.execute(
                    text("SELECT * FROM outbox WHERE publish_time IS NULL ORDER BY seq LIMIT :batch"), {"batch": BATCH}
                )
            ).all()
            await self._measure(len(rows))
            if not rows:
                return 0
            crash_point("outbox:before-publish")
            by_aggregate = [
                list(group) for _, group in groupby(sorted(rows, key=_order), key=lambda row: row.aggregate)
            ]
            results = await asyncio.gather(*(self._publish_in_order(group) for group in by_aggregate))
            published = [pair for result in results for pair in result]
            crash_point("outbox:after-publish")
            await connection.execute(
                text(
                    "UPDATE outbox SET publish_time = clock_timestamp(), stream_epoch = :epoch,"
                    " stream_sequence = p.sequence"
                    " FROM unnest(cast(:seqs AS bigint[]), cast(:sequences AS bigint[])) AS p(seq, sequence)"
                    " WHERE outbox.seq = p.seq"
                ),
                {
                    "epoch": self._epoch,
                    "seqs": [seq for seq, _ in published],
                    "sequences": [sequence for _, sequence in published],
                },
            )
        PUBLISHED.inc(len(published))
        if len(published) < len(rows):
            raise Unavailable("BUS_UNAVAILABLE", f"{len(rows) - len(published)} of {len(rows)} events were not taken")
        return len(published)

    async def _publish_in_order(self, rows: Sequence[Any]) -> list[tuple[int, int]]:
        """Publishes one aggregate's events; stops at the first that fails, so that none overtakes it."""
        done: list[tuple[int, int]] = []
        for row in rows:
            headers = headers_of(
                id=str(row.id),
                type=row.type,
                source=row.source,
                subject=row.subject,
                project=row.project,
                cycle=row.cycle,
                time=row.time,
                traceparent=row.traceparent,
            )
            try:
                ack = await self._bus.publish(
                    subject_of(row.project, row.type), row.data.encode(), headers, message_id=str(row.id)
                )
            except Unavailable:
                break
            done.append((row.seq, ack.sequence))
            if ack.sequence <= self._highest and not ack.duplicate:
                self._ask_for_check()  # A stream that counts from lower down than before has lost something.
            self._highest = max(self._highest, ack.sequence)
        return done

    async def _recover_lost(self) -> None:
        """Marks as unpublished what the stream should hold and does not.

        A stream made anew has lost everything that was published to the one before. A stream restored from an older
        copy keeps what came first, so the first lost row is found by stepping back in growing strides and then halving.
        """
        connection = self._database.connection()
        stream = await self._bus.stream()
        lost = await connection.execute(text(f"{_UNPUBLISH} stream_epoch <> :epoch"), {"epoch": stream.epoch})
        count = lost.rowcount
        # Places below the stream's first have aged out.
        first_lost = await self._first_lost(stream)
        if first_lost is not None:
            lost = await connection.execute(
                text(f"{_UNPUBLISH} stream_sequence >= :first_lost"), {"first_lost": first_lost}
            )
            count += lost.rowcount
        if count:
            REPUBLISHED.inc(count)
            log.warning("stream_lost_events", events_to_publish_again=count)
        newest = await connection.scalar(text("SELECT max(stream_sequence) FROM outbox WHERE publish_time IS NOT NULL"))
        self._epoch, self._highest = stream.epoch, newest or 0

    async def _first_lost(self, stream: StreamState) -> int | None:
        """The lowest place that the stream has lost; None when all are intact."""
        lost, skip, stride = None, 0, 1
        while True:
            row = await self._row(
                "stream_sequence >= :first ORDER BY stream_sequence DESC OFFSET :skip LIMIT 1",
                {"first": stream.first, "skip": skip},
            )
            if row is None or await self._is_intact(row):
                break
            lost, skip, stride = row.stream_sequence, skip + stride, stride * 2
        if lost is None:
            return None
        intact = row.stream_sequence if row is not None else stream.first - 1
        # The oldest may lie between the last stride and the beginning.
        while True:
            row = await self._row(
                "stream_sequence > :intact AND stream_sequence < :lost ORDER BY stream_sequence OFFSET"
                " (SELECT count(*) / 2 FROM outbox WHERE publish_time IS NOT NULL"
                " AND stream_sequence > :intact AND stream_sequence < :lost) LIMIT 1",
                {"intact": intact, "lost": lost},
            )
            if row is None:
                return lost
            if await self._is_intact(row):
                intact = row.stream_sequence
            else:
                lost = row.stream_sequence

    async def _row(self, where: str, values: dict[str, int]) -> Any:
        query = f"SELECT stream_sequence, id FROM outbox WHERE publish_time IS NOT NULL AND {where}"  # noqa: S608 - ours.
        return (await self._database.connection().execute(text(query), values)).one_or_none()

    async def _is_intact(self, row: Any) -> bool:
        return await self._bus.message_id_at(row.stream_sequence) == str(row.id)

    async def _measure(self, seen: int) -> None:
        backlog = seen
        if seen == BATCH:
            found = await self._database.connection().scalar(
                text("SELECT count(*) FROM (SELECT 1 FROM outbox WHERE publish_time IS NULL LIMIT :cap) AS waiting"),
                {"cap": CAP},
            )
            backlog = int(found or 0)
        BACKLOG.set(backlog)
        self._outbox.full = backlog >= CAP

    def _ask_for_check(self) -> None:
        self._check_needed = True


async def forget_old(database: Database) -> None:
    """Deletes published events and inbox rows older than the retention time; called now and then by the service."""
    async with database.transaction() as connection:
        for table, column in (("outbox", "publish_time"), ("processed_event", "time")):
            await connection.execute(
                text(f"DELETE FROM {table} WHERE {column} < now() - interval '{RETENTION}'")  # noqa: S608 - constants.
            )


def _order(row: Any) -> tuple[str, int]:
    return row.aggregate, row.seq
