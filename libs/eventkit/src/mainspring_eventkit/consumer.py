"""Durable consumers: an event is handed to a handler in a transaction that also marks it as processed.

Verdicts: handled, or handled before -> ack after the commit; a passing trouble -> nak with a growing delay;
undecodable, refused for good, or out of attempts -> dead letter, acknowledged by the dead-letter stream before the
event is ended. Deliveries are counted by the server, so an event that kills the process at each delivery is
dead-lettered too, before it is handled once more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import nats.errors
from nats.aio.msg import Msg
from prometheus_client import Counter, Histogram
from sqlalchemy import text

from mainspring_eventkit.bus import Bus, cancellation_kept
from mainspring_eventkit.cloudevents import Event, UndecodableEvent, decode
from mainspring_eventkit.dead_letters import bury
from mainspring_eventkit.topology import ACK_WAIT_S, EVENTS_STREAM, load, verify
from mainspring_svckit import telemetry
from mainspring_svckit.crash import crash_point
from mainspring_svckit.database import Database
from mainspring_svckit.errors import ConcurrentChange, MainspringError, Unavailable
from mainspring_svckit.logs import get_logger

Handler = Callable[[Event], Awaitable[None]]
log = get_logger(__name__)

HEARTBEAT_S = 5.0
SILENCE_S = 12.0
PULL_EXPIRES_S = 30.0
MAX_SILENCES = 10

EVENTS = Counter("mainspring_events_consumed_total", "Events by what became of them.", ["consumer", "verdict"])
LAG = Histogram(
    "mainspring_event_lag_seconds",
    "Time from an event's happening to the start of its handler.",
    ["consumer"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300),
)


class Consumer:
    """Takes events of one durable consumer, until cancelled."""

    def __init__(
        self,
        bus: Bus,
        database: Database,
        name: str,
        handler: Handler,
        *,
        concurrency: int = 1,
        hold: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Takes what to do.

        Args:
            bus: Where events come from.
            database: Where effects go.
            name: The durable, as declared in `deploy/nats/topology.yaml`.
            handler: Makes the effect, in the ambient transaction and quickly; long work is put in the work queue.
            concurrency: Events at a time; above 1 there is no order.
            hold: Returns when events may be taken; asked before each.
        """
        self._hold = hold
        self._bus, self._database, self._name, self._handler = bus, database, name, handler
        self._spec = load().consumers[name]
        self._slots = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._arrivals: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._database_away = False
        # A pull dies with its connection; None among the arrivals asks for a new one.
        bus.on_reconnect(lambda: self._arrivals.put_nowait(None))

    async def run(self) -> None:
        """Consumes until cancelled; what is being handled then is finished.

        Raises:
            Unavailable: The bus has been silent through many renewals although connected; better start afresh.
        """
        silences = 0
        while True:
            try:
                with cancellation_kept():
                    await verify(self._bus.jetstream, self._spec)
                async for message in self._messages():
                    silences = 0
                    await self._start(message)
            except TimeoutError:
                # No message and no heartbeat: the server has forgotten the request (it restarted), or the consumer
                # hangs.
                silences += 1
                log.warning("consumer_silent", consumer=self._name, silences=silences)
                if silences >= MAX_SILENCES and self._bus.client.is_connected:
                    raise Unavailable("CONSUMER_SILENT", f"consumer {self._name} gets no heartbeats") from None
            except (MainspringError, nats.errors.Error) as err:
                log.warning("consumer_waiting", consumer=self._name, error=str(err))
                await asyncio.sleep(1)
            finally:
                await self._drained()

    async def _messages(self) -> AsyncIterator[Msg]:
        """One long pull after another, each for one event, as soon as a slot is free."""
        client = self._bus.client
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{self._name}"
        request = {"batch": 1, "expires": int(PULL_EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=self._arrivals.put)
        try:
            while True:
                await self._slots.acquire()
                self._slots.release()
                if self._database_away:
                    await self._wait_for_database()
                if self._hold is not None:
                    await self._hold()
                await client.publish(subject, json.dumps(request).encode(), reply=inbox)
                message = await self._next()
                if message is not None:
                    yield message
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _next(self) -> Msg | None:
        """The next event, or None when the pull has ended without one or was lost with its connection."""
        while True:
            async with asyncio.timeout(SILENCE_S):
                message = await self._arrivals.get()
            if message is None:
                return None
            status = (message.headers or {}).get("Status")
            if not status:
                return message
            if status != "100":  # 100 is a heartbeat; anything else ends the pull.
                return None

    async def _wait_for_database(self) -> None:
        """Takes no events while none can be handled, so that an outage does not use up their attempts."""
        while True:
            try:
                await self._database.ping()
            except Unavailable:
                await asyncio.sleep(1)
            else:
                self._database_away = False
                return

    async def _start(self, message: Msg) -> None:
        await self._slots.acquire()
        task = asyncio.create_task(self._settle(message))
        task.add_done_callback(lambda _: self._slots.release())
        if self._concurrency == 1:
            await asyncio.shield(task)

    async def _drained(self) -> None:
        for _ in range(self._concurrency):
            await self._slots.acquire()
        for _ in range(self._concurrency):
            self._slots.release()

    async def _settle(self, message: Msg) -> None:
        """Handles one delivery and tells the server what became of it."""
        try:
            event = decode(message.headers, message.data)
            self._check_type(event)
        except UndecodableEvent as err:
            if err.reason == "UNKNOWN_TYPE" and self._spec.takes_unknown:
                await message.ack()  # A newer release tells something that this one has never heard of.
            else:
                await self._bury(message, err.reason, str(err))
            return
        delivery = message.metadata.num_delivered or 1
        if delivery > self._spec.attempts:
            await self._bury(message, "OUT_OF_ATTEMPTS", "every delivery failed or ended the process")
            return
        LAG.labels(self._name).observe(max(0.0, _age_s(event)))
        token = telemetry.attach(telemetry.extract({"traceparent": event.traceparent} if event.traceparent else {}))
        try:
            with telemetry.tracer.start_as_current_span(event.type, kind=telemetry.CONSUMER):
                async with self._in_progress(message):
                    verdict = await self._database.run(lambda: self._once(event))
            crash_point(f"{self._name}:before-ack")
            await message.ack()
            EVENTS.labels(self._name, verdict).inc()
        except (Unavailable, ConcurrentChange) as err:
            self._database_away = isinstance(err, Unavailable)
            await self._postpone(message, delivery, err.reason)
        except MainspringError as err:
            await self._bury(message, err.reason, err.message)
        except nats.errors.Error as err:
            log.warning(
                "ack_failed", consumer=self._name, error=type(err).__name__
            )  # It comes again; the inbox knows it.
        except Exception as err:
            log.error("event_handler_failed", consumer=self._name, event_id=event.id, exc_info=True)
            if delivery >= self._spec.attempts:
                await self._bury(message, "HANDLER_FAILED", f"{type(err).__name__}: {err}")
            else:
                await self._postpone(message, delivery, type(err).__name__)
        finally:
            telemetry.detach(token)

    def _check_type(self, event: Event) -> None:
        if not self._spec.takes_unknown and event.type not in self._spec.events:
            raise UndecodableEvent("WRONG_TYPE", f"{event.type} came on the subject of {', '.join(self._spec.events)}")

    async def _once(self, event: Event) -> str:
        """The effect and its mark, in one transaction; nothing when the mark is there already."""
        new = await self._database.connection().scalar(
            text(
                "INSERT INTO processed_event (consumer, event_id) VALUES (:consumer, :event_id)"
                " ON CONFLICT DO NOTHING RETURNING 1"
            ),
            {"consumer": self._name, "event_id": event.id},
        )
        if not new:
            return "repeated"
        crash_point(f"{self._name}:before-effect")
        await self._handler(event)
        crash_point(f"{self._name}:before-commit")
        return "handled"

    @asynccontextmanager
    async def _in_progress(self, message: Msg) -> AsyncIterator[None]:
        """Tells the server that we are at it, so that it does not deliver to another replica meanwhile."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(ACK_WAIT_S / 3)
                with suppress(nats.errors.Error):
                    await message.in_progress()

        beats = asyncio.create_task(beat())
        try:
            yield
        finally:
            beats.cancel()

    async def _postpone(self, message: Msg, delivery: int, reason: str) -> None:
        delay = min(60.0, 0.5 * 2**delivery)
        log.warning("event_postponed", consumer=self._name, delivery=delivery, delay_s=delay, reason=reason)
        EVENTS.labels(self._name, "postponed").inc()
        with suppress(nats.errors.Error):
            await message.nak(delay=delay)

    async def _bury(self, message: Msg, reason: str, detail: str) -> None:
        log.error("event_dead_lettered", consumer=self._name, reason=reason, detail=detail)
        try:
            await bury(self._bus, self._name, message, reason, detail)
        except Unavailable:
            await self._postpone(message, message.metadata.num_delivered or 1, "DEAD_LETTER_STREAM_UNAVAILABLE")
            return
        EVENTS.labels(self._name, "dead").inc()
        with suppress(nats.errors.Error):
            await message.term()


def _age_s(event: Event) -> float:
    return (datetime.now(UTC) - event.time).total_seconds()
