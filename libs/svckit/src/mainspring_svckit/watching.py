"""Server streams that follow one resource: its state now, and again after each change, until it has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from mainspring_svckit.database import Listener

CHANNEL = "watch"
POLL_S = 5.0
T = TypeVar("T")


async def follow(
    listener: Listener,
    name: str,
    read: Callable[[], Awaitable[T]],
    ended: Callable[[T], bool],
) -> AsyncIterator[T]:
    """Yields what `read` gives, whenever it differs from the time before.

    Args:
        listener: Hears the notifications that writers send on `CHANNEL` with the resource's name.
        name: The resource.
        read: Reads it; raises `NotFound` when it is missing.
        ended: Whether this was the last state.
    """
    last: T | None = None
    with listener.subscribe(CHANNEL, name) as changes:
        while True:
            current = await read()
            if current != last:
                yield current
                last = current
            if ended(current):
                return
            await changes.wait(POLL_S)
