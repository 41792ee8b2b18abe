"""Puts pieces of text together, so that tokens that are ready together travel together. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL_S = 0.025
"""Each response costs a hop; at most one in this time was measured to be unnoticeable to people and cheap."""


class Coalescer:
    """Collects the text of one request and sends it: the first piece at once, later ones at most once per interval.

    What `take_rest` returns was not sent and belongs to the last response.
    """

    def __init__(
        self,
        send: Callable[[str], None],
        *,
        stream: bool,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes where text goes; without `stream` all text is kept for the last response."""
        self._send, self._stream, self._interval_s, self._clock = send, stream, interval_s, clock
        self._kept: list[str] = []
        self._next_at = float("-inf")

    def add(self, text: str) -> None:
        """Takes a piece; sends it, and what was kept before, when it is time."""
        if text:
            self._kept.append(text)
        if not self._stream or not self._kept:
            return
        now = self._clock()
        if now >= self._next_at:
            self._next_at = now + self._interval_s
            self._send(self.take_rest())

    def take_rest(self) -> str:
        """All text that was not sent yet."""
        rest = "".join(self._kept)
        self._kept.clear()
        return rest
