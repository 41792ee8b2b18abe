"""One side of the events benchmark: emits events through an outbox, or handles them through a consumer.

    python -m bench.events_worker emit | handle

Reads one JSON object on stdin: `database`, `nats`, and for `emit` also `rate_per_s` and `seconds`, for `handle` also
`count`. Prints `"ready"`, waits for another line, works, and prints one JSON object: nanoseconds of the system's clock
by event id; for `emit` when the transaction was committed, for `handle` when the handler began.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from mainspring.events.v1.data_events_pb2 import DatasetVersionPublished
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.cloudevents import Event
from mainspring_eventkit.consumer import Consumer
from mainspring_eventkit.outbox import CHANNEL, Outbox, Relay
from mainspring_svckit.database import Database, Listener

CONSUMER = "trainer-datasets"
_DATASETS = 20
_PATIENCE_S = 60.0
# Logs go to the standard output, and must not mix with what we answer.
_ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


async def emit(wish: Mapping[str, Any]) -> dict[str, int]:
    """Emits at a steady rate, each event in a transaction of its own, whatever the one before is waiting for."""
    committed: dict[str, int] = {}
    async with _connected(wish) as (database, bus):
        outbox = Outbox(database, "bench")
        listener = Listener(wish["database"], (CHANNEL,))

        async def one(number: int) -> None:
            dataset = f"projects/p/datasets/d{number % _DATASETS}"
            data = DatasetVersionPublished(dataset=dataset, dataset_version=f"{dataset}/versions/{number + 1}")
            async with database.transaction():
                event_id = await outbox.emit(data)
            committed[event_id] = time.time_ns()

        async with _running(listener.run(), Relay(database, listener, bus, outbox).run()):
            await one(0)  # Opens connections, prepares statements; handled before the count begins.
            committed.clear()
            await _told()
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for number in range(1, wish["rate_per_s"] * wish["seconds"] + 1):
                    await asyncio.sleep(began + number / wish["rate_per_s"] - time.monotonic())
                    group.create_task(one(number))
            await Relay(database, listener, bus, outbox).flush()
    return committed


async def handle(wish: Mapping[str, Any]) -> dict[str, int]:
    """Handles events one after the other, as a service does, until `count` have come after the first."""
    began: dict[str, int] = {}
    done = asyncio.Event()

    async def handler(event: Event) -> None:
        began[event.id] = time.time_ns()
        if len(began) > wish["count"]:
            done.set()

    async with _connected(wish) as (database, bus):
        consumer = Consumer(bus, database, CONSUMER, handler)
        async with _running(consumer.run()):
            await _told()
            try:
                async with asyncio.timeout(_PATIENCE_S + wish["count"] / 50):
                    await done.wait()
            except TimeoutError:
                pass  # What did not come is missing from what is printed.
    return began


@asynccontextmanager
async def _connected(wish: Mapping[str, Any]) -> AsyncIterator[tuple[Database, Bus]]:
    database = Database(wish["database"], service="bench")
    bus = await Bus.connect(wish["nats"], name="bench")
    try:
        yield database, bus
    finally:
        await bus.close()
        await database.close()


@asynccontextmanager
async def _running(*bodies: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(body) for body in bodies]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _told() -> None:
    """Says that everything is connected, and waits to be told to begin."""
    _say("ready")
    await asyncio.to_thread(sys.stdin.readline)


def _say(value: Any) -> None:
    _ANSWERS.write(json.dumps(value) + "\n")
    _ANSWERS.flush()


async def main(role: str) -> None:
    """Reads what to do, does it and prints what came of it."""
    wish: dict[str, Any] = json.loads(sys.stdin.readline())
    _say(await {"emit": emit, "handle": handle}[role](wish))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
