"""Routing tables over real NATS, the ledger over real Postgres."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf import json_format
from sqlalchemy import text

from mainspring.events.v1.inference_events_pb2 import ResponseCompleted
from mainspring_answers.domain import Answer, FinishReason, Question, Route, RoutingTable
from mainspring_answers.ledger import OutboxLedger
from mainspring_answers.routing import RoutingFollower, RoutingPublisher, table_from_json, table_to_json
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.outbox import Outbox
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.values import Message
from mainspring_testkit.plugin import DatabaseFor
from mainspring_testkit.servers import NatsServer
from mainspring_testkit.waiting import eventually

MODEL = "projects/p/models/m"
ROUTE = Route(f"{MODEL}/versions/1", "", 100, "t", 2048, "{{ é }}", "<s>", "</s>", 0, "c")


def table(revision: int, model: str = MODEL) -> RoutingTable:
    return RoutingTable(model, revision, (ROUTE,))


@pytest.fixture
async def follower(bus: Bus) -> AsyncIterator[RoutingFollower]:
    follower = RoutingFollower(bus)
    running = asyncio.create_task(follower.run())
    await asyncio.wait_for(follower.loaded.wait(), 10)
    yield follower
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def revision(follower: RoutingFollower) -> int:
    known = follower.table(MODEL)
    return known.revision if known is not None else 0


def test_tables_round_trip() -> None:
    assert table_from_json(table_to_json(table(3))) == table(3)
    with pytest.raises(ValueError, match="Expect"):
        table_from_json(b"{")


async def test_f17_the_last_tables_stay_while_the_bus_is_away(
    bus: Bus, follower: RoutingFollower, nats_server: NatsServer
) -> None:
    publisher = RoutingPublisher(bus)
    await publisher.publish(table(1))
    await eventually(lambda: revision(follower))
    await nats_server.kill()
    assert follower.table(MODEL) == table(1)
    with pytest.raises(Unavailable):
        await publisher.publish(table(2))
    await nats_server.start()

    async def published() -> bool:
        try:
            await publisher.publish(table(2))
        except Unavailable:
            return False
        return await revision(follower) == 2

    await eventually(published, within_s=60)


async def test_what_is_not_a_table_is_passed_over(bus: Bus, follower: RoutingFollower) -> None:
    bucket = await bus.jetstream.key_value("mainspring-routing")
    await bucket.put("p.m", b"garbage")
    await bucket.put("p.n", table_to_json(table(1)))
    await eventually(lambda: revision(follower))


def answer(number: int, reason: FinishReason = FinishReason.STOP) -> Answer:
    name, now = f"projects/p/answers/{number}", datetime(2026, 1, 1, tzinfo=UTC)
    return Answer(name, "said", reason, ROUTE.model_version, "", 3, 2, (), now, 0.1, 0.2, (), PROMPT, GUARD, ("a", "b"))


PROMPT, GUARD = "projects/p/prompts/q/versions/1", "projects/p/guardPolicies/g/versions/1"
QUESTION = Question("p", MODEL, "ann", (Message("system", "s"), Message("user", "asked")))


async def rows(database: Any) -> list[ResponseCompleted]:
    async with database.transaction() as connection:
        found = (await connection.scalars(text("SELECT data FROM outbox ORDER BY seq"))).all()
    return [json_format.Parse(data, ResponseCompleted()) for data in found]


async def test_answers_that_come_together_are_recorded_together(database_for: DatabaseFor) -> None:
    database = await database_for("mainspring_testkit.platform")
    ledger = OutboxLedger(database, Outbox(database, "inference"))
    await asyncio.gather(*(ledger.record(QUESTION, answer(n)) for n in range(300)))
    kept = await rows(database)
    assert {event.answer for event in kept} == {f"projects/p/answers/{n}" for n in range(300)}
    assert (kept[0].text, kept[0].caller, kept[0].usage.input_tokens) == ("said", "ann", 3)
    assert [message.content for message in kept[0].messages] == ["s", "asked"]
    assert kept[0].prompt_version == PROMPT
    assert (kept[0].guard_policy_version, list(kept[0].guard_rules)) == (GUARD, ["a", "b"])
    async with database.transaction() as connection:
        commits = await connection.scalar(text("SELECT count(DISTINCT xmin::text) FROM outbox"))
    assert commits is not None
    assert commits < 20


async def test_i11_content_is_left_out_when_the_project_does_not_keep_it(database_for: DatabaseFor) -> None:
    database = await database_for("mainspring_testkit.platform")
    ledger = OutboxLedger(database, Outbox(database, "inference"), keep_content=False)
    await ledger.record(QUESTION, answer(1))
    (event,) = await rows(database)
    assert (event.text, len(event.messages), event.usage.output_tokens) == ("", 0, 2)


async def test_a_ledger_that_cannot_write_says_so(database_for: DatabaseFor) -> None:
    database = await database_for("mainspring_testkit.platform")
    outbox = Outbox(database, "inference")
    outbox.full = True
    ledger = OutboxLedger(database, outbox)
    with pytest.raises(Unavailable) as caught:
        await ledger.record(QUESTION, answer(1))
    assert caught.value.reason == "LEDGER_UNAVAILABLE"
    outbox.full = False
    await ledger.record(QUESTION, answer(2))
    assert [event.answer for event in await rows(database)] == ["projects/p/answers/2"]
