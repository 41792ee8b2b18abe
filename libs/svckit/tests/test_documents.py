from typing import Any

import pytest
from sqlalchemy import text

from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents, table_ddl
from mainspring_testkit.contracts.repository import RepositoryContract, Thing
from mainspring_testkit.fakes import FakeRepository, FakeTransactions
from mainspring_testkit.plugin import DatabaseFor


def order(newest_first: bool) -> dict[str, Any]:
    return {
        "parent": lambda value: value.parent,
        "sort_key": lambda value: f"{value.number:08}",
        "newest_first": newest_first,
    }


class TestFakeRepository(RepositoryContract):
    @pytest.fixture
    def repository(self) -> FakeRepository[Thing]:
        return FakeRepository(**order(newest_first=False))

    @pytest.fixture
    def newest_first(self) -> FakeRepository[Thing]:
        return FakeRepository(**order(newest_first=True))

    @pytest.fixture
    def transaction(self) -> Any:
        return FakeTransactions().transaction


class TestDocuments(RepositoryContract):
    @pytest.fixture
    async def database(self, database_for: DatabaseFor) -> Database:
        database = await database_for("")
        async with database.transaction() as connection:
            for statement in table_ddl("thing", "label"):
                await connection.execute(text(statement))
        return database

    @pytest.fixture
    def repository(self, database: Database) -> Documents[Thing]:
        return Documents(database, "thing", Thing, **order(newest_first=False))

    @pytest.fixture
    def newest_first(self, database: Database) -> Documents[Thing]:
        return Documents(database, "thing", Thing, **order(newest_first=True))

    @pytest.fixture
    def transaction(self, database: Database) -> Any:
        return database.transaction
