"""In-memory fakes of the ports of `mainspring_svckit` and of the outbox; each passes the contract suite of its port."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from mainspring_eventkit.catalog import resource_of
from mainspring_svckit.artifacts import MAX_READ_BYTES
from mainspring_svckit.errors import (
    AlreadyExists,
    EtagMismatch,
    InsufficientStorage,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    Unavailable,
)
from mainspring_svckit.names import project_of
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Entity, Listed, Stored
from mainspring_svckit.values import ArtifactRef
from mainspring_svckit.work import LeaseLost

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

    async def enqueue_all(self, kind: str, keys: Sequence[str], *, after: int = 0) -> None:
        del after
        self.queued.update({(kind, key): {} for key in keys})

    async def forget(self, kind: str, keys: Sequence[str]) -> None:
        for key in keys:
            self.queued.pop((kind, key), None)

    async def cancel(self, kind: str, key: str) -> None:
        self.queued.pop((kind, key), None)

    async def open_items(self, kind: str, project: str) -> int:
        return sum(known == kind and project_of(key) == project for known, key in self.queued)


class FakeNotifier:
    """`Notifier` that remembers."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    async def notify(self, channel: str, payload: str) -> None:
        self.sent.append((channel, payload))


class FakeArtifacts:
    """`Artifacts` in a dictionary, with the files and streams of `ArtifactStore`."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.chunk_bytes = 1 << 20
        self.full = False

    async def put_bytes(self, project: str, data: bytes, *, media_type: str = "", filename: str = "") -> ArtifactRef:
        if self.full:
            raise InsufficientStorage("the artifact store")
        digest = hashlib.sha256(data).hexdigest()
        self.files[project, digest] = data
        return ArtifactRef(digest, len(data), media_type, filename)

    async def put_file(
        self,
        project: str,
        path: Path,
        *,
        media_type: str = "",
        filename: str = "",
        before: Callable[[ArtifactRef], Awaitable[None]] | None = None,
    ) -> ArtifactRef:
        return await self._put(project, path.read_bytes(), media_type, filename or path.name, before)

    async def put_stream(
        self,
        project: str,
        chunks: AsyncIterable[bytes],
        *,
        max_bytes: int,
        media_type: str = "",
        filename: str = "",
        before: Callable[[ArtifactRef], Awaitable[None]] | None = None,
    ) -> ArtifactRef:
        data = b"".join([chunk async for chunk in chunks])
        if len(data) > max_bytes:
            raise QuotaExceeded("UPLOAD_TOO_LARGE", "too large")
        # What comes as a stream and has no name gets that of the file that the real store writes it to.
        return await self._put(project, data, media_type, filename or "upload", before)

    async def _put(
        self,
        project: str,
        data: bytes,
        media_type: str,
        filename: str,
        before: Callable[[ArtifactRef], Awaitable[None]] | None,
    ) -> ArtifactRef:
        if before is not None:
            await before(ArtifactRef(hashlib.sha256(data).hexdigest(), len(data), media_type, filename))
        return await self.put_bytes(project, data, media_type=media_type, filename=filename)

    async def read(self, project: str, artifact: ArtifactRef) -> bytes:
        if artifact.size_bytes > MAX_READ_BYTES:
            raise QuotaExceeded("ARTIFACT_TOO_LARGE", "too large to be read at once")
        return b"".join([chunk async for chunk in self.stream(project, artifact)])

    async def stream(self, project: str, artifact: ArtifactRef) -> AsyncIterator[bytes]:
        data = self.files.get((project, artifact.sha256))
        if data is None:
            raise NotFound("Artifact", artifact.sha256)
        for start in range(0, len(data), self.chunk_bytes):
            yield data[start : start + self.chunk_bytes]
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise PreconditionFailed("ARTIFACT_CORRUPT", "damaged")

    async def exists(self, project: str, artifact: ArtifactRef) -> bool:
        data = self.files.get((project, artifact.sha256))
        return data is not None and len(data) == artifact.size_bytes

    async def discard(self, project: str, artifact: ArtifactRef) -> None:
        self.files.pop((project, artifact.sha256), None)

    def damage(self, artifact: ArtifactRef) -> None:
        """Flips a bit of these bytes in every project that has them."""
        for key, data in self.files.items():
            if key[1] == artifact.sha256:
                self.files[key] = bytes([data[0] ^ 1]) + data[1:]


class FakeOutbox:
    """`Outbox` that remembers the messages, and with each its turn of the loop, its id and what order is kept for."""

    def __init__(self) -> None:
        self.emitted: list[Message] = []
        self.cycles: list[str] = []
        self.ids: list[str] = []
        self.aggregates: list[str] = []
        self.full = False

    async def emit(self, data: Message, *, cycle: str = "", aggregate: str = "") -> str:
        if self.full:
            raise Unavailable("OUTBOX_FULL", "full")
        subject = resource_of(data)
        if project_of(subject) is None:
            raise ValueError(f"an event is about {subject!r}, which is not a resource name")
        self.emitted.append(data)
        self.cycles.append(cycle)
        self.ids.append(f"event-{len(self.emitted)}")
        self.aggregates.append(aggregate or subject)
        return self.ids[-1]


@dataclass
class FakeLease:
    """`Claim` that can be lost: at once (`lost`), or after so many transactions (`lasts`)."""

    lost: bool = False
    lasts: float = math.inf
    completed: bool = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        self.lasts -= 1
        if self.lost or self.completed or self.lasts < 0:
            raise LeaseLost("item")
        yield

    @asynccontextmanager
    async def complete(self) -> AsyncIterator[None]:
        async with self.transaction():
            yield
        self.completed = True


class FakeClock:
    """`Clock` that stands still until told."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.time += timedelta(seconds=seconds)
