"""Lines that come faster than they can be stored are stored together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mainspring_trainer.application.ports import Told

WITHIN_S = 0.25
MOST = 500


async def grouped(lines: AsyncIterator[Told], kind: str, *, within_s: float = WITHIN_S) -> AsyncIterator[list[Told]]:
    """Lines of one kind in groups of those that come within a short time, every other line alone, all in order."""
    loop = asyncio.get_running_loop()
    group: list[Told] = []
    due = 0.0
    coming: asyncio.Future[Told] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(lines))
            done, _ = await asyncio.wait({coming}, timeout=max(0.0, due - loop.time()) if group else None)
            if not done:
                yield group
                group = []
                continue
            try:
                told, coming = coming.result(), None
            except BaseException as err:
                coming = None
                if group:
                    yield group
                if isinstance(err, StopAsyncIteration):
                    return
                raise
            if told["type"] == kind:
                due = due if group else loop.time() + within_s
                group.append(told)
            if group and (told["type"] != kind or len(group) >= MOST or loop.time() >= due):
                yield group
                group = []
            if told["type"] != kind:
                yield [told]
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
