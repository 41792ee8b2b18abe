"""Follows, and publishes, the routing tables in the key-value bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import nats.errors
import nats.js.errors
from google.protobuf import json_format
from nats.js.kv import KeyValue

from mainspring.inference.v1 import routing_pb2
from mainspring_answers.domain import Route, RoutingTable
from mainspring_eventkit.bus import Bus, cancellation_kept
from mainspring_eventkit.topology import ROUTING_BUCKET
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.logs import get_logger
from mainspring_svckit.mapping import unit_from_proto, unit_to_proto
from mainspring_svckit.names import ModelName

log = get_logger(__name__)
_REFRESH_S = 30.0


def key_of(model: str) -> str:
    """The key of a model's table: `{project}.{model}`."""
    name = ModelName.parse(model)
    return f"{name.project}.{name.model}"


def table_to_json(table: RoutingTable) -> bytes:
    """Prints a table."""
    message = routing_pb2.RoutingTable(model=table.model, revision=table.revision)
    for route in table.routes:
        message.routes.add(**{**route.__dict__, "unit": unit_to_proto(route.unit)})
    return json_format.MessageToJson(message, indent=None).encode()


def table_from_json(data: bytes) -> RoutingTable:
    """Reads a table; fields of newer releases are passed over.

    Raises:
        ValueError: It is not a table.
    """
    try:
        message = json_format.Parse(data, routing_pb2.RoutingTable(), ignore_unknown_fields=True)
    except json_format.ParseError as err:
        raise ValueError(str(err)) from err
    routes = tuple(
        Route(
            model_version=route.model_version,
            release=route.release,
            percent=route.percent,
            triton_model=route.triton_model,
            context_tokens=route.context_tokens,
            chat_template=route.chat_template,
            bos_token=route.bos_token,
            eos_token=route.eos_token,
            dimensions=route.dimensions,
            cycle=route.cycle,
            unit=unit_from_proto(route.unit),
        )
        for route in message.routes
    )
    return RoutingTable(message.model, message.revision, routes)


class RoutingFollower:
    """Knows the newest table of every model. When the bus is away, the last known tables stay."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tables: dict[str, RoutingTable] = {}
        self._restart = asyncio.Event()
        self.loaded = asyncio.Event()
        bus.on_reconnect(self._restart.set)

    def table(self, model: str) -> RoutingTable | None:
        """The newest table of a model."""
        return self._tables.get(model)

    def tables(self, project: str) -> Iterator[RoutingTable]:
        """The tables of a project that have routes, by model."""
        for model in sorted(self._tables):
            if ModelName.parse(model).project == project and self._tables[model].routes:
                yield self._tables[model]

    def all_tables(self) -> Sequence[RoutingTable]:
        """Every table, of all projects."""
        return tuple(self._tables.values())

    async def run(self) -> None:
        """Follows until cancelled."""
        while True:
            try:
                await self._follow()
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as err:
                log.warning("routing_waiting", error=type(err).__name__)
                await asyncio.sleep(0.5)

    async def check(self) -> None:
        """Raises `Unavailable` until the tables were read once; a probe for readiness."""
        if not self.loaded.is_set():
            raise Unavailable("ROUTING_UNKNOWN", "the routing tables have not been read yet")

    async def _follow(self) -> None:
        with cancellation_kept():
            bucket = await self._bus.jetstream.key_value(ROUTING_BUCKET)
            self._restart.clear()
            watcher = await bucket.watchall()
        restarted = asyncio.create_task(self._restart.wait())
        waiting: set[asyncio.Task[Any]] = {restarted}
        try:
            while True:
                update = asyncio.create_task(watcher.updates(timeout=_REFRESH_S))
                waiting = {restarted, update}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if restarted.done():
                    return  # The watch died with its connection.
                try:
                    entry = update.result()
                except nats.errors.TimeoutError:
                    return  # Nothing new for a while; a new watch would show what this one may have missed.
                if isinstance(entry, KeyValue.Entry):
                    self._take(entry)
                else:
                    self.loaded.set()  # The bucket's present content has been read.
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            # On a connection that is gone this could wait for ever, and nothing is lost by leaving it.
            with suppress(nats.errors.Error, TimeoutError):
                async with asyncio.timeout(1):
                    await watcher.stop()

    def _take(self, entry: KeyValue.Entry) -> None:
        if entry.operation is not None or entry.value is None:
            return  # Deletions: a table without routes says the same, with a revision.
        try:
            table = table_from_json(entry.value)
        except ValueError:
            log.error("routing_table_unreadable", key=entry.key)
            return
        known = self._tables.get(table.model)
        if known is None or table.revision > known.revision:
            self._tables[table.model] = table
            log.info("routing_changed", model=table.model, revision=table.revision, routes=len(table.routes))


class RoutingPublisher:
    """Publishes tables; a newer one is never replaced by an older."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, table: RoutingTable) -> None:
        """Puts a table into the bucket unless a newer one is there.

        Raises:
            Unavailable: The bus is away; the controller publishes again later.
        """
        key, value = key_of(table.model), table_to_json(table)
        try:
            bucket = await self._bus.jetstream.key_value(ROUTING_BUCKET)
            for _ in range(5):
                try:
                    present = await bucket.get(key)
                except nats.js.errors.KeyNotFoundError:
                    present = None
                value_there = present.value if present is not None else None
                if value_there is not None and table_from_json(value_there).revision >= table.revision:
                    return
                try:
                    await bucket.update(key, value, last=present.revision if present is not None else 0)
                except nats.js.errors.KeyWrongLastSequenceError:
                    continue  # Another replica was quicker; look again.
                return
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as err:
            raise Unavailable("BUS_UNAVAILABLE", "the routing table could not be published") from err
