"""Wires a service to the bus; used in its `main.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from mainspring_eventkit import outbox as outbox_module
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.consumer import Consumer, Handler
from mainspring_eventkit.outbox import Outbox, Relay
from mainspring_svckit import idempotency
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import MainspringError
from mainspring_svckit.lifecycle import Process

HOUSEKEEPING_S = 3600.0


class Guard(Protocol):
    """Says whether a service may tell and hear events."""

    async def verify(self) -> bool:
        """Looks, and says whether it may."""
        ...

    async def settled(self) -> None:
        """Returns when it may."""
        ...


async def connect_bus(process: Process) -> Bus:
    """The service's connection, closed at the end."""
    bus = await Bus.connect(process.settings.nats_url.get_secret_value(), name=f"mainspring-{process.name}")
    process.on_close(bus.close)
    process.health.add_probe("bus", bus.ping)
    return bus


class Events:
    """A service's way out of and into the bus."""

    def __init__(
        self, process: Process, database: Database, listener: Listener, bus: Bus, guard: Guard | None = None
    ) -> None:
        """Starts the relay on a connected bus; with a guard neither it nor consumers work against its word."""
        self._process, self._database, self._bus = process, database, bus
        self._hold = guard.settled if guard is not None else None
        self.outbox = Outbox(database, process.name)
        may_publish = guard.verify if guard is not None else None
        relay = Relay(database, listener, bus, self.outbox, may_publish=may_publish)
        process.support(relay.run(), "relay", flush=relay.flush)
        process.support(_housekeeping(database), "housekeeping")

    @classmethod
    async def connect(cls, process: Process, database: Database, listener: Listener) -> Events:
        """Connects to the bus and starts the relay."""
        return cls(process, database, listener, await connect_bus(process))

    @property
    def bus(self) -> Bus:
        """The connection."""
        return self._bus

    def consume(
        self, name: str, handler: Handler, *, concurrency: int = 1, hold: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Starts a consumer; `hold` returns when it may take events, beside what the guard says."""
        holds = [one for one in (self._hold, hold) if one is not None]

        async def every_hold() -> None:
            for one in holds:
                await one()

        consumer = Consumer(self._bus, self._database, name, handler, concurrency=concurrency, hold=every_hold)
        self._process.intake(consumer.run(), f"consumer {name}")


async def _housekeeping(database: Database) -> None:
    while True:
        await asyncio.sleep(HOUSEKEEPING_S)
        try:
            await outbox_module.forget_old(database)
            await idempotency.forget_old_requests(database)
        except MainspringError:
            continue  # It is tried again in an hour.
