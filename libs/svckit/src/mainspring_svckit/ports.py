"""Ports that the use cases of every service need. Pure; composition roots give them the real things, tests fakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from mainspring_svckit.values import ArtifactRef


class Transactions(Protocol):
    """Makes changes commit together."""

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Joins the ambient transaction, or begins one."""
        ...


class Work(Protocol):
    """Queues long work; joins the ambient transaction."""

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
        """Adds an item; one of that kind and key that is there already is made ready again, as new.

        With `coalesce` a worker that has it may end what it does first.
        """
        ...

    async def enqueue_all(self, kind: str, keys: Sequence[str], *, after: int = 0) -> None:
        """Adds many items that are not there yet, without payload, each behind those before it and behind as many more
        as `after` says; of two that are equally far behind, the one that was added first is claimed first.
        """
        ...

    async def forget(self, kind: str, keys: Sequence[str]) -> None:
        """Takes many items out and keeps nothing of them; a worker that has one loses its lease."""
        ...

    async def cancel(self, kind: str, key: str) -> None:
        """Takes an item out; a worker that has it loses its lease."""
        ...

    async def open_items(self, kind: str, project: str) -> int:
        """How many items of a project wait or are worked on."""
        ...


class Claim(Protocol):
    """What a worker holds while it works on an item; `mainspring_svckit.work.Lease` is the real one."""

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """A transaction that commits only while the item is ours; raises `LeaseLost` otherwise."""
        ...

    def complete(self) -> AbstractAsyncContextManager[None]:
        """As `transaction`, and the item is done when it commits."""
        ...


class Notifier(Protocol):
    """Wakes those who watch; joins the ambient transaction."""

    async def notify(self, channel: str, payload: str) -> None:
        """Wakes them once the transaction commits."""
        ...


class Artifacts(Protocol):
    """Small files in the content-addressed store."""

    async def put_bytes(self, project: str, data: bytes, *, media_type: str = "", filename: str = "") -> ArtifactRef:
        """Stores bytes."""
        ...

    async def read(self, project: str, artifact: ArtifactRef) -> bytes:
        """Reads them back, verified."""
        ...

    async def exists(self, project: str, artifact: ArtifactRef) -> bool:
        """Whether the store holds them."""
        ...
