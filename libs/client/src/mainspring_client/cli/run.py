"""Runs a command's asynchronous part with a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mainspring_client.client import Mainspring

T = TypeVar("T")


def with_client(data: Path | None, body: Callable[[Mainspring], Awaitable[T]]) -> T:
    """What `body` returns, with a client of the installation that the options and the environment name."""
    from mainspring_client.client import Mainspring

    async def main() -> T:
        async with Mainspring.connect(data=data) as mainspring:
            return await body(mainspring)

    return asyncio.run(main())


async def collect(items: AsyncIterator[T], limit: int) -> list[T]:
    """The first `limit` of a list that is read page by page."""
    found: list[T] = []
    async for item in items:
        found.append(item)
        if len(found) >= limit:
            break
    return found
