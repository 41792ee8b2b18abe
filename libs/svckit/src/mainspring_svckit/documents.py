"""Entities as rows with one JSON document each: `Repository` on Postgres.

A table has the entity's name, the parent under which it is listed, a key that orders the list, and the document. Lists
go by key (never by offset), so each page costs the same. What is looked up by a field gets an index on that field in
the service's migration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import text

from mainspring_svckit.database import Database
from mainspring_svckit.errors import AlreadyExists, EtagMismatch
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Entity, Listed, Stored

E = TypeVar("E", bound=Entity)


def table_ddl(table: str, *fields: str) -> tuple[str, ...]:
    """Statements that make a table, for migrations; each of `fields` gets an index for `find`."""
    return (
        f"""
        CREATE TABLE {table} (
            name text PRIMARY KEY,
            parent text NOT NULL,
            sort_key text NOT NULL COLLATE "C",
            body jsonb NOT NULL,
            revision bigint NOT NULL DEFAULT 1,
            update_time timestamptz NOT NULL DEFAULT now()
        )
        """,
        f"CREATE UNIQUE INDEX {table}_list ON {table} (parent, sort_key)",
        *(f"CREATE INDEX {table}_{field} ON {table} ((body ->> '{field}'))" for field in fields),
    )


REFUSE_CHANGE = """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% of % is refused: what stands there is kept for ever', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END $$
"""
"""Statement, once for a database, that `kept_ddl` needs."""


def kept_ddl(table: str, events: str = "UPDATE OR DELETE OR TRUNCATE") -> str:
    """Statement by which a table refuses changes, whoever asks the database; for migrations."""
    return f"CREATE TRIGGER {table}_kept BEFORE {events} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"


class Documents(Generic[E]):
    """All entities of one kind, in one table."""

    def __init__(
        self,
        database: Database,
        table: str,
        kind: type[E],
        *,
        parent: Callable[[E], str],
        sort_key: Callable[[E], str],
        newest_first: bool = False,
    ) -> None:
        """Takes where and how.

        Args:
            database: Where the table is.
            table: Its name.
            kind: The entities' class.
            parent: Under what an entity is listed.
            sort_key: What orders the list; unique under a parent. Numbers are padded, UUIDs of version 7 go by time.
            newest_first: Whether lists go from the highest key down.
        """
        self._database, self._table, self._kind = database, table, kind
        self._parent, self._sort_key = parent, sort_key
        self._comparison, self._order = ("<", "DESC") if newest_first else (">", "ASC")
        self._adapter: TypeAdapter[E] = TypeAdapter(kind)

    async def get(self, name: str, *, lock: bool = False) -> Stored[E] | None:
        suffix = " FOR UPDATE" if lock else ""
        row = (await self._execute(f"SELECT * FROM {self._table} WHERE name = :name{suffix}", name=name)).one_or_none()
        return self._stored(row) if row is not None else None

    async def add(self, value: E) -> Stored[E]:
        row = (
            await self._execute(
                f"INSERT INTO {self._table} (name, parent, sort_key, body) VALUES (:name, :parent, :sort_key,"
                " cast(:body AS jsonb)) ON CONFLICT (name) DO NOTHING RETURNING *",
                **self._values(value),
            )
        ).one_or_none()
        if row is None:
            raise AlreadyExists(self._kind.__name__, value.name)
        return self._stored(row)

    async def put(self, value: E, *, etag: str = "") -> Stored[E]:
        if etag:
            row = (
                await self._execute(
                    f"UPDATE {self._table} SET body = cast(:body AS jsonb), revision = revision + 1,"
                    " update_time = now() WHERE name = :name AND cast(revision AS text) = :etag RETURNING *",
                    **self._values(value),
                    etag=etag,
                )
            ).one_or_none()
            if row is None:
                raise EtagMismatch(value.name)
            return self._stored(row)
        rows = await self._execute(
            f"INSERT INTO {self._table} AS t (name, parent, sort_key, body) VALUES (:name, :parent, :sort_key,"
            " cast(:body AS jsonb)) ON CONFLICT (name) DO UPDATE SET body = excluded.body,"
            " revision = t.revision + 1, update_time = now() RETURNING *",
            **self._values(value),
        )
        return self._stored(rows.one())

    async def remove(self, name: str) -> None:
        await self._execute(f"DELETE FROM {self._table} WHERE name = :name", name=name)

    async def all(self) -> Sequence[E]:
        rows = await self._execute(f"SELECT * FROM {self._table} ORDER BY parent, sort_key {self._order}")
        return [self._stored(row).value for row in rows.all()]

    async def list(self, parent: str, page: Page) -> Listed[E]:
        return await self.page(parent, page)

    async def page(self, parent: str, page: Page, condition: str = "", **values: Any) -> Listed[E]:
        """One page of a list, narrowed by SQL of the adapter's own that begins with ` AND`; values are always bound."""
        after = f" AND sort_key {self._comparison} :after" if page.after is not None else ""
        rows = (
            await self._execute(
                f"SELECT * FROM {self._table} WHERE parent = :parent{after}{condition}"
                f" ORDER BY sort_key {self._order} LIMIT :limit",
                parent=parent,
                limit=page.size + 1,
                **({"after": page.after} if page.after is not None else {}),
                **values,
            )
        ).all()
        shown = rows[: page.size]
        return Listed([self._stored(row) for row in shown], shown[-1].sort_key if len(rows) > page.size else None)

    async def find(self, field: str, value: str) -> Sequence[E]:
        order = f"ORDER BY parent, sort_key {self._order}"
        query = f"SELECT * FROM {self._table} WHERE body ->> '{field}' = :value {order}"
        rows = await self._execute(query, value=value)
        return [self._stored(row).value for row in rows.all()]

    async def _execute(self, statement: str, **values: Any) -> Any:
        return await self._database.connection().execute(text(statement), values)

    def _values(self, value: E) -> dict[str, Any]:
        return {
            "name": value.name,
            "parent": self._parent(value),
            "sort_key": self._sort_key(value),
            "body": self._adapter.dump_json(value).decode(),
        }

    def _stored(self, row: Any) -> Stored[E]:
        return Stored(self._adapter.validate_python(row.body), str(row.revision), row.update_time)
