"""The contract of `mainspring_eventkit.outbox.Outbox`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import pytest
from google.protobuf.message import Message

from mainspring.events.v1.feedback_events_pb2 import FeedbackItemRecorded
from mainspring_svckit.errors import Unavailable


class Emitted(NamedTuple):
    """One event as it waits to be published."""

    id: str
    aggregate: str
    cycle: str
    data: Message


class EmitsEvents(Protocol):
    """What announcements need of an outbox."""

    full: bool

    async def emit(self, data: Message, *, cycle: str = "", aggregate: str = "") -> str:
        """Adds an event; returns its id."""
        ...


def recorded(number: int) -> FeedbackItemRecorded:
    """An event."""
    return FeedbackItemRecorded(feedback_item=f"projects/p/feedbackItems/{number}", kind="SCORE", value=0.5)


class OutboxContract:
    """What every outbox does.

    Subclasses give the fixtures `outbox`, `transaction` (called for each) and `emitted`: what waits, in order; the
    events are all `FeedbackItemRecorded`.
    """

    async def test_events_wait_in_order_each_with_an_id_of_its_own(
        self, outbox: EmitsEvents, transaction: Any, emitted: Callable[[], Awaitable[list[Emitted]]]
    ) -> None:
        ids: list[str] = []
        for number in range(3):
            async with transaction():
                ids.append(await outbox.emit(recorded(number), cycle=f"c{number}"))
        async with transaction():
            ids.append(await outbox.emit(recorded(0), aggregate="projects/p/models/m"))
        assert len(set(ids)) == 4
        items = [f"projects/p/feedbackItems/{number}" for number in range(3)]
        aggregates, cycles = [*items, "projects/p/models/m"], ["c0", "c1", "c2", ""]
        wanted = map(Emitted, ids, aggregates, cycles, map(recorded, (0, 1, 2, 0)))
        assert await emitted() == list(wanted)

    async def test_an_event_about_no_resource_is_a_mistake(
        self, outbox: EmitsEvents, transaction: Any, emitted: Callable[[], Awaitable[list[Emitted]]]
    ) -> None:
        for subject in ("", "feedbackItems/1"):
            with pytest.raises(ValueError, match="not a resource name"):
                async with transaction():
                    await outbox.emit(FeedbackItemRecorded(feedback_item=subject))
        assert await emitted() == []

    async def test_a_full_outbox_takes_no_more(
        self, outbox: EmitsEvents, transaction: Any, emitted: Callable[[], Awaitable[list[Emitted]]]
    ) -> None:
        outbox.full = True
        with pytest.raises(Unavailable) as caught:
            async with transaction():
                await outbox.emit(recorded(1))
        assert caught.value.reason == "OUTBOX_FULL"
        assert await emitted() == []
