"""In-memory fakes of the ports in `mainspring_svckit`; each passes the contract suite of its port."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from mainspring_svckit.errors import AlreadyExists, EtagMismatch, NotFound
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Entity, Listed, Stored
from mainspring_svckit.values import ArtifactRef

E = TypeVar("E", bound=Entity)


class FakeRepository(Generic[E]):
    """`Repository` in a dictionary."""

    def __init__(self, *, parent: Callable[[E], str], sort_key: Callable[[E], str], newest_first: bool = False) -> None:
        self._parent, self._sort_key, self._newest_first = parent, sort_key, newest_first
        self.rows: dict[str, Stored[E]] = {}

    async def get(self, name: str, *, lock: bool = False) -> Stored[E] | None:
        del lock
        return self.rows.get(name)

    async def add(self, value: E) -> Stored[E]:
        if value.name in self.rows:
            raise AlreadyExists(type(value).__name__, value.name)
        return await self.put(value)

    async def put(self, value: E, *, etag: str = "") -> Stored[E]:
        before = self.rows.get(value.name)
        if etag and (before is None or before.etag != etag):
            raise EtagMismatch(value.name)
        revision = int(before.etag) + 1 if before is not None else 1
        self.rows[value.name] = Stored(value, str(revision), datetime.now(UTC))
        return self.rows[value.name]

    async def remove(self, name: str) -> None:
        self.rows.pop(name, None)

    async def all(self) -> Sequence[E]:
        return [row.value for row in sorted(self._ordered(), key=lambda row: self._parent(row.value))]

    async def list(self, parent: str, page: Page) -> Listed[E]:
        rows = [row for row in self._ordered() if self._parent(row.value) == parent and self._follows(row, page.after)]
        shown = rows[: page.size]
        return Listed(shown, self._sort_key(shown[-1].value) if len(rows) > page.size else None)

    async def find(self, field: str, value: str) -> Sequence[E]:
        return [row.value for row in self._ordered() if getattr(row.value, field) == value]

    def _ordered(self) -> Sequence[Stored[E]]:
        return sorted(self.rows.values(), key=lambda row: self._sort_key(row.value), reverse=self._newest_first)

    def _follows(self, row: Stored[E], after: str | None) -> bool:
        if after is None:
            return True
        key = self._sort_key(row.value)
        return key < after if self._newest_first else key > after


class FakeTransactions:
    """`Transactions` that commits everything; what a failed block wrote stays, so tests of roll-back use Postgres."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield


class FakeWork:
    """`Work` that remembers."""

    def __init__(self) -> None:
        self.queued: dict[tuple[str, str], Mapping[str, Any]] = {}

    async def enqueue(
        self,
        kind: str,
        key: str,
        payload: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
        delay_s: float = 0,
        coalesce: bool = False,
    ) -> None:
        del priority, delay_s, coalesce
        self.queued[kind, key] = dict(payload or {})

    async def cancel(self, kind: str, key: str) -> None:
        self.queued.pop((kind, key), None)


class FakeNotifier:
    """`Notifier` that remembers."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    async def notify(self, channel: str, payload: str) -> None:
        self.sent.append((channel, payload))


class FakeArtifacts:
    """`Artifacts` in a dictionary."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}

    async def put_bytes(self, project: str, data: bytes, *, media_type: str = "", filename: str = "") -> ArtifactRef:
        digest = hashlib.sha256(data).hexdigest()
        self.files[project, digest] = data
        return ArtifactRef(digest, len(data), media_type, filename)

    async def read(self, project: str, artifact: ArtifactRef) -> bytes:
        try:
            return self.files[project, artifact.sha256]
        except KeyError:
            raise NotFound("Artifact", artifact.sha256) from None

    async def exists(self, project: str, artifact: ArtifactRef) -> bool:
        return (project, artifact.sha256) in self.files


class FakeOutbox:
    """`Outbox` that remembers the messages."""

    def __init__(self) -> None:
        self.emitted: list[Message] = []
        self.cycles: list[str] = []

    async def emit(self, data: Message, *, cycle: str = "", aggregate: str = "") -> str:
        del aggregate
        self.emitted.append(data)
        self.cycles.append(cycle)
        return str(len(self.emitted))


class FakeClock:
    """`Clock` that stands still until told."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.time += timedelta(seconds=seconds)
