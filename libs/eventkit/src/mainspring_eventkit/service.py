"""Wires a service to the bus; used in its `main.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mainspring_eventkit import outbox as outbox_module
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.consumer import Consumer, Handler
from mainspring_eventkit.outbox import Outbox, Relay
from mainspring_svckit import idempotency
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import MainspringError
from mainspring_svckit.lifecycle import Process

HOUSEKEEPING_S = 3600.0


class Events:
    """A service's way out of and into the bus."""

    def __init__(self, process: Process, database: Database, listener: Listener, bus: Bus) -> None:
        self._process, self._database, self._bus = process, database, bus
        self._hold: Callable[[], Awaitable[None]] | None = None
        self.outbox = Outbox(database, process.name)
        relay = Relay(database, listener, bus, self.outbox)
        process.support(relay.run(), "relay", flush=relay.flush)
        process.support(_housekeeping(database), "housekeeping")

    @classmethod
    async def connect(cls, process: Process, database: Database, listener: Listener) -> Events:
        """Connects to the bus and starts the relay."""
        bus = await Bus.connect(process.settings.nats_url.get_secret_value(), name=f"mainspring-{process.name}")
        process.on_close(bus.close)
        process.health.add_probe("bus", bus.ping)
        return cls(process, database, listener, bus)

    @property
    def bus(self) -> Bus:
        """The connection."""
        return self._bus

    def hold_until(self, hold: Callable[[], Awaitable[None]]) -> None:
        """Has the consumers that are started from now on take an event only when `hold` has returned."""
        self._hold = hold

    def consume(self, name: str, handler: Handler, *, concurrency: int = 1) -> None:
        """Starts a consumer."""
        consumer = Consumer(self._bus, self._database, name, handler, concurrency=concurrency, hold=self._hold)
        self._process.intake(consumer.run(), f"consumer {name}")


async def _housekeeping(database: Database) -> None:
    while True:
        await asyncio.sleep(HOUSEKEEPING_S)
        try:
            await outbox_module.forget_old(database)
            await idempotency.forget_old_requests(database)
        except MainspringError:
            continue  # It is tried again in an hour.
