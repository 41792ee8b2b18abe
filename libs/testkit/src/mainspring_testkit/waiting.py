"""The only polling loop of the tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    condition: Callable[[], Awaitable[T]], *, within_s: float = 10.0, what: str = "the condition"
) -> T:
    """Waits until `condition` returns something true without raising AssertionError, and returns it.

    Raises:
        AssertionError: It did not within `within_s`; names `what` and the last value or failure.
    """
    deadline = time.monotonic() + within_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            value = await condition()
        except AssertionError as err:
            last = err
        else:
            if value:
                return value
            last = value
        await asyncio.sleep(0.02)  # The tests' only sleep.
    raise AssertionError(f"{what} did not come true within {within_s} s; last: {last!r}")
