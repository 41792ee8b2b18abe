"""The outbox by one suite, over the fake and over Postgres."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf import json_format
from sqlalchemy import text

from mainspring.events.v1.feedback_events_pb2 import FeedbackItemRecorded
from mainspring_eventkit.outbox import Outbox
from mainspring_svckit.database import Database
from mainspring_testkit.contracts.outbox import Emitted, OutboxContract
from mainspring_testkit.fakes import FakeOutbox, FakeTransactions
from mainspring_testkit.plugin import DatabaseFor


class TestFakeOutbox(OutboxContract):
    @pytest.fixture
    def outbox(self) -> FakeOutbox:
        return FakeOutbox()

    @pytest.fixture
    def transaction(self) -> Any:
        return FakeTransactions().transaction

    @pytest.fixture
    def emitted(self, outbox: FakeOutbox) -> Callable[[], Awaitable[list[Emitted]]]:
        async def waiting() -> list[Emitted]:
            return list(map(Emitted, outbox.ids, outbox.aggregates, outbox.cycles, outbox.emitted))

        return waiting


class TestOutbox(OutboxContract):
    @pytest.fixture
    async def database(self, database_for: DatabaseFor) -> Database:
        return await database_for("mainspring_testkit.platform")

    @pytest.fixture
    def outbox(self, database: Database) -> Outbox:
        return Outbox(database, "test")

    @pytest.fixture
    def transaction(self, database: Database) -> Any:
        return database.transaction

    @pytest.fixture
    def emitted(self, database: Database) -> Callable[[], Awaitable[list[Emitted]]]:
        async def waiting() -> list[Emitted]:
            async with database.transaction() as connection:
                rows = await connection.execute(text("SELECT id, aggregate, cycle, data FROM outbox ORDER BY seq"))
                return [
                    Emitted(str(r.id), r.aggregate, r.cycle, json_format.Parse(r.data, FeedbackItemRecorded()))
                    for r in rows.all()
                ]

        return waiting
