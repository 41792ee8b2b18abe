"""Out of Postgres, over real NATS, into Postgres: order, once, never lost."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from mainspring.events.v1.registry_events_pb2 import ModelReleased
from mainspring_eventkit import outbox as outbox_module
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.catalog import subject_of, type_of
from mainspring_eventkit.cloudevents import Event, encode_body
from mainspring_eventkit.consumer import Consumer, Handler
from mainspring_eventkit.dead_letters import DeadLetter, list_dead, replay_dead, show_dead
from mainspring_eventkit.outbox import CHANNEL, Outbox, Relay
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import InvalidInput, NotFound, Unavailable
from mainspring_testkit.plugin import DatabaseFor
from mainspring_testkit.servers import NatsServer
from mainspring_testkit.waiting import eventually

CONSUMER = "inference-releases"
TYPE = "mainspring.registry.model.released.v1"


def released(number: int, model: str = "m") -> ModelReleased:
    name = f"projects/p/models/{model}"
    return ModelReleased(release=f"{name}/releases/{number}", model=name, release_number=number)


class Side:
    """One service: a database with outbox and inbox, relays and consumers."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self.database, self.bus = database, bus
        self.outbox = Outbox(database, "registry")
        self.listener = Listener(database.url, (CHANNEL,))
        self.tasks = [asyncio.create_task(self.listener.run())]

    def relay(self) -> asyncio.Task[None]:
        return self._run(Relay(self.database, self.listener, self.bus, self.outbox, poll_s=0.2).run())

    def consume(self, handler: Handler | None = None, *, bus: Bus | None = None, **options: Any) -> asyncio.Task[None]:
        consumer = Consumer(bus or self.bus, self.database, CONSUMER, handler or self.effect, **options)
        return self._run(consumer.run())

    def _run(self, coroutine: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self.tasks.append(task)
        return task

    async def emit(self, *numbers: int, model: str = "m") -> None:
        async with self.database.transaction():
            for number in numbers:
                await self.outbox.emit(released(number, model), aggregate=f"projects/p/models/{model}")

    async def effect(self, event: Event) -> None:
        assert isinstance(event.data, ModelReleased)
        await self.database.connection().execute(
            text("INSERT INTO effect (what) VALUES (:what)"), {"what": event.data.release}
        )

    async def effects(self) -> list[str]:
        async with self.database.transaction() as connection:
            rows = await connection.scalars(text("SELECT what FROM effect ORDER BY id"))
            return [what.removeprefix("projects/p/models/") for what in rows.all()]

    async def unpublished(self) -> int:
        async with self.database.transaction() as connection:
            return int(await connection.scalar(text("SELECT count(*) FROM outbox WHERE publish_time IS NULL")) or 0)

    async def has(self, count: int, within_s: float = 20) -> list[str]:
        async def reached() -> list[str] | None:
            effects = await self.effects()
            return effects if len(effects) >= count else None

        await eventually(reached, within_s=within_s, what=f"{count} effects")
        await eventually(self.idle, within_s=within_s, what="an idle outbox")
        return await self.effects()

    async def idle(self) -> bool:
        return await self.unpublished() == 0

    async def dead(self) -> list[DeadLetter]:
        return [letter async for letter in list_dead(self.bus)]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def side(database_for: DatabaseFor, bus: Bus) -> AsyncIterator[Side]:
    side = Side(await database_for("mainspring_testkit.platform"), bus)
    yield side
    await side.close()


async def test_an_event_goes_out_with_its_transaction_and_has_one_effect(side: Side) -> None:
    side.relay()
    side.consume()
    await side.emit(1)
    with pytest.raises(ZeroDivisionError):
        async with side.database.transaction():
            await side.outbox.emit(released(2))
            raise ZeroDivisionError
    await side.emit(3)
    assert await side.has(2) == ["m/releases/1", "m/releases/3"]


async def test_i4_order_is_kept_per_aggregate_with_two_relays(side: Side) -> None:
    side.relay()
    side.relay()
    side.consume()
    for number in range(1, 41):
        await side.emit(number, model="m")
        await side.emit(number, model="n")
    effects = await side.has(80)
    for model in ("m", "n"):
        assert [e for e in effects if e.startswith(model)] == [f"{model}/releases/{n}" for n in range(1, 41)]


async def test_f21_a_row_that_commits_late_with_a_lower_number_is_not_skipped(side: Side) -> None:
    side.relay()
    side.consume()
    async with side.database.transaction():
        await side.outbox.emit(released(1, "late"))
        await asyncio.create_task(side.emit(2, model="early"))
        assert await asyncio.create_task(side.has(1)) == ["early/releases/2"]
    assert sorted(await side.has(2)) == ["early/releases/2", "late/releases/1"]


async def test_f12_a_hundred_copies_in_any_order_are_one_effect(side: Side) -> None:
    side.relay()
    await side.emit(1)
    await eventually(side.idle)
    message = await side.bus.jetstream.get_msg("MAINSPRING_EVENTS", 1)
    assert message.headers is not None
    for copy in range(100):
        await side.bus.publish(message.subject, message.data, message.headers, message_id=f"copy-{copy}")  # type: ignore[arg-type]
    side.consume(concurrency=8)
    side.consume(concurrency=8)

    async def all_settled() -> bool:
        info = await side.bus.jetstream.consumer_info("MAINSPRING_EVENTS", CONSUMER)
        return info.num_pending == 0 and info.num_ack_pending == 0

    await eventually(all_settled, what="all copies to be settled")
    assert await side.effects() == ["m/releases/1"]


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        ({}, b"hello", "NOT_AN_EVENT"),
        ({"ce-type": "mainspring.registry.model.released.v9"}, b"{}", "UNKNOWN_TYPE"),
        ({"ce-type": "mainspring.registry.model.release_revoked.v1"}, b"{}", "WRONG_TYPE"),
        ({"ce-type": TYPE}, b"{", "BAD_BODY"),
    ],
)
async def test_f12_poison_goes_to_the_dead_letters_and_its_neighbours_go_on(
    side: Side, headers: dict[str, str], body: bytes, reason: str
) -> None:
    side.relay()
    side.consume()
    if headers:
        headers = {"ce-specversion": "1.0", "ce-id": "x", "ce-source": "/x", **headers}
    await side.bus.publish(subject_of("p", TYPE), body, headers, message_id="poison")
    await side.emit(1)
    assert await side.has(1) == ["m/releases/1"]
    letters = await eventually(side.dead, what="a dead letter")
    assert [(letter.consumer, letter.reason, letter.body) for letter in letters] == [(CONSUMER, reason, body)]


async def test_a_refused_event_is_dead_lettered_with_its_reason_and_can_be_replayed(side: Side) -> None:
    mended = False

    async def handler(event: Event) -> None:
        if not mended:
            raise InvalidInput("no such thing", reason="NO_SUCH_THING")
        await side.effect(event)

    side.relay()
    side.consume(handler)
    await side.emit(1)
    (letter,) = await eventually(side.dead, what="a dead letter")
    assert (letter.reason, letter.detail, letter.attempts) == ("NO_SUCH_THING", "no such thing", 1)
    assert await side.effects() == []
    mended = True
    await replay_dead(side.bus, letter.sequence)
    assert await side.has(1) == ["m/releases/1"]
    with pytest.raises(NotFound):
        await show_dead(side.bus, letter.sequence)


async def test_passing_trouble_is_tried_again_and_a_bug_too(side: Side) -> None:
    tries: list[str] = []

    async def handler(event: Event) -> None:
        tries.append(event.id)
        if len(tries) == 1:
            raise Unavailable("DEPENDENCY", "away")
        if len(tries) == 2:
            raise KeyError("a bug that comes and goes")
        await side.effect(event)

    side.relay()
    side.consume(handler)
    await side.emit(1)
    assert await side.has(1) == ["m/releases/1"]
    assert len(set(tries)) == 1
    assert await side.dead() == []


async def test_f3_a_killed_bus_loses_nothing(side: Side, nats_server: NatsServer) -> None:
    side.relay()
    side.consume()
    await side.emit(*range(1, 6))
    await side.has(5)
    await nats_server.kill()
    await side.emit(*range(6, 11))
    assert await side.unpublished() == 5
    await nats_server.start(with_topology=False)
    effects = await side.has(10, within_s=30)
    assert effects == [f"m/releases/{n}" for n in range(1, 11)]


async def test_f24_a_bus_with_an_empty_store_gets_everything_again_and_effects_stay_single(
    side: Side, nats_server: NatsServer
) -> None:
    side.relay()
    side.consume()
    await side.emit(*range(1, 31))
    await side.has(30)
    await nats_server.kill()
    nats_server.wipe()
    await side.emit(31)
    await nats_server.start()
    effects = await side.has(31, within_s=30)
    assert Counter(effects) == Counter({f"m/releases/{n}": 1 for n in range(1, 32)})

    async def all_there() -> bool:
        return (await side.bus.stream()).last == 31

    await eventually(all_there, what="the stream to hold everything again")


async def test_f24_a_bus_that_went_back_gets_what_it_lost(side: Side, nats_server: NatsServer) -> None:
    relay = side.relay()
    await side.emit(*range(1, 21))
    await eventually(side.idle)
    relay.cancel()
    # As after a restore of an older copy: the newest eight messages are gone, and others have taken their places.
    for sequence in range(13, 21):
        await side.bus.jetstream.delete_msg("MAINSPRING_EVENTS", sequence)
    for copy in range(3):
        await side.bus.publish("mainspring.events.p.other", b"{}", {}, message_id=f"other-{copy}")
    await nats_server.kill()  # A server that was restored has started anew, without memory of what it took before.
    await nats_server.start(with_topology=False)
    side.relay()

    async def published_again() -> bool:
        return (await side.bus.stream()).last == 31

    await eventually(published_again, what="eight events to be published again")
    ids = [await side.bus.message_id_at(sequence) for sequence in range(24, 32)]
    async with side.database.transaction() as connection:
        lost = await connection.scalars(text("SELECT id FROM outbox ORDER BY seq OFFSET 12"))
        assert ids == [str(id_) for id_ in lost.all()]


async def test_f5_a_bus_that_hangs_is_survived(side: Side, nats_server: NatsServer) -> None:
    side.relay()
    side.consume()
    await side.emit(1)
    await side.has(1)
    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        await side.emit(2)

        async def noticed() -> bool:
            try:
                await side.bus.ping()
            except Unavailable:
                return True
            return False

        await eventually(noticed, within_s=15, what="the hang to be noticed")
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    assert await side.has(2, within_s=30) == ["m/releases/1", "m/releases/2"]


async def test_a_full_outbox_says_so(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "CAP", 3)
    monkeypatch.setattr(outbox_module, "BATCH", 2)

    async def refuses(*_: Any, **__: Any) -> None:
        raise Unavailable("BUS_UNAVAILABLE", "away")

    monkeypatch.setattr(side.bus, "publish", refuses)
    side.relay()
    await side.emit(1, 2, 3)

    async def full() -> bool:
        return side.outbox.full

    await eventually(full)
    with pytest.raises(Unavailable, match="wait for the bus"):
        await side.emit(4)


async def test_an_event_about_nothing_is_a_mistake_of_the_caller(side: Side) -> None:
    with pytest.raises(ValueError, match="not a resource name"):
        async with side.database.transaction():
            await side.outbox.emit(ModelReleased(release="m"))
    assert type_of(released(1)) == TYPE
    assert encode_body(released(1)) != ""
