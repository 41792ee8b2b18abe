"""Brings a service's database to the schema that its code needs.

A service keeps its Alembic revisions in `<package>/migrations/`. Migrators exclude each other by an advisory lock, each
revision commits as a whole, and running again is harmless (faults.md F8). Revisions follow expand and contract: code of
the release before must work on the new schema.
"""

from __future__ import annotations

import asyncio
from importlib import resources

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from mainspring_svckit.errors import Unavailable

_LOCK = 0x6D61696E  # "main"; any constant will do, all migrators of a database must use the same.


async def migrate(url: str, package: str) -> None:
    """Applies every revision of `package` that the database lacks."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.begin() as lock:
            await lock.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            async with engine.begin() as connection:
                await connection.run_sync(_upgrade, package)
    finally:
        await engine.dispose()


async def check(url: str, package: str) -> None:
    """Raises `Unavailable` unless the database has the newest revision of `package`."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.connect() as connection:
            current, head = await connection.run_sync(_revisions, package)
    finally:
        await engine.dispose()
    if current != head:
        raise Unavailable(
            "SCHEMA_OUTDATED",
            f"the database is at revision {current}, this release needs {head}; run the service's command 'migrate'",
            metadata={"current": str(current), "needed": str(head)},
        )


def _config(package: str):
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.files("mainspring_svckit") / "alembic_env"))
    config.set_main_option("version_locations", str(resources.files(package) / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: Connection, package: str) -> None:
    from alembic import command

    config = _config(package)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revisions(connection: Connection, package: str) -> tuple[str | None, str | None]:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(_config(package)).get_current_head()
    return MigrationContext.configure(connection).get_current_revision(), head


def main(url: str, package: str) -> None:
    """The command `migrate` of a service."""
    asyncio.run(migrate(url, package))
