"""Real servers for tests, on free ports and in temporary folders."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from nats.aio.client import Client

from mainspring_client.stack.component import Running, free_port, start
from mainspring_client.stack.nats import NatsUser, nats_component, user_url
from mainspring_client.stack.postgres import ensure_database, postgres_component
from mainspring_eventkit import topology
from mainspring_svckit.ids import new_id
from mainspring_svckit.migrations import migrate


@asynccontextmanager
async def scratch_folder(prefix: str) -> AsyncIterator[Path]:
    """A folder that other users may pass through (Postgres is another one when we are root), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"mainspring-{prefix}-"))
    folder.chmod(stat.S_IRWXU | stat.S_IXGRP | stat.S_IXOTH)
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


class NatsServer:
    """A NATS server that a test may stop, kill, wipe and start again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._user = NatsUser("admin", secrets.token_hex(8))
        self._running: Running | None = None

    @property
    def url(self) -> str:
        """URL with all rights."""
        return user_url(self._user, self.port)

    @property
    def pid(self) -> int:
        """Process id, for signals."""
        assert self._running is not None
        return self._running.pid

    async def start(self, *, with_topology: bool = True) -> None:
        """Starts it; applies the topology unless told otherwise."""
        self._running = await start(nats_component(self._folder, self.port, [self._user]))
        await self._running.wait_ready()
        if with_topology:
            await self.apply_topology()

    async def apply_topology(self) -> None:
        """Makes streams, buckets and consumers."""
        client = Client()
        await client.connect(self.url)
        try:
            await topology.apply(client.jetstream(), topology.load())
        finally:
            await client.close()

    async def kill(self) -> None:
        """Kills it with SIGKILL."""
        assert self._running is not None
        self._running.process.kill()
        await self._running.process.wait()

    async def stop(self) -> None:
        """Stops it in an orderly way."""
        if self._running is not None:
            await self._running.stop()

    def wipe(self) -> None:
        """Removes everything stored; only while stopped."""
        shutil.rmtree(self._folder / "jetstream", ignore_errors=True)


class PostgresServer:
    """A Postgres server that makes databases quickly: one migrated template per package, copied for each test."""

    def __init__(self, folder: Path, *, synced: bool = True) -> None:
        """Takes where its files go, and whether they must outlive a loss of power as well as a kill."""
        self._folder, self._synced = folder, synced
        self.port = free_port()
        self._password = secrets.token_hex(8)
        self._templates: set[str] = set()
        self._running: Running | None = None

    async def start(self) -> None:
        """Starts it."""
        component = await asyncio.to_thread(
            postgres_component, self._folder, self.port, self._password, synced=self._synced
        )
        self._running = await start(component)
        await self._running.wait_ready()

    async def stop(self) -> None:
        """Stops it in an orderly way."""
        if self._running is not None:
            await self._running.stop()

    async def kill(self) -> None:
        """Kills it with SIGKILL, all its processes at once."""
        assert self._running is not None
        self._running.process.kill()
        await self._running.process.wait()

    @property
    def pid(self) -> int:
        """Process id of the postmaster, for signals."""
        assert self._running is not None
        return self._running.pid

    async def new_database(self, package: str = "") -> str:
        """URL of a new database, migrated for `package` when one is given."""
        template = f"template_{package or 'empty'}"
        if template not in self._templates:
            url = await ensure_database(self.port, self._password, template, self._password)
            if package:
                await migrate(url, package)
            self._templates.add(template)
        return await self._copy(template, template)

    async def backup(self, url: str) -> str:
        """URL of a copy of a database as it is now; nobody may be connected to it."""
        parts = urlsplit(url)
        return await self._copy(parts.path.removeprefix("/"), str(parts.username))

    async def _copy(self, source: str, owner: str) -> str:
        name = f"test_{new_id().replace('-', '')}"
        admin: Any = await asyncpg.connect(
            user="mainspring_admin", password=self._password, host="127.0.0.1", port=self.port, database="postgres"
        )
        try:
            await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}" OWNER "{owner}" STRATEGY file_copy')
        finally:
            await admin.close()
        return f"postgresql://{owner}:{self._password}@127.0.0.1:{self.port}/{name}"
