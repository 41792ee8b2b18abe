"""What feedback's use cases need from outside."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from typing import Protocol

from mainspring_feedback.domain.answers import Answer
from mainspring_feedback.domain.judgements import FeedbackItem, JudgedModel, Lesson
from mainspring_feedback.domain.triggers import Firing, RetrainingTrigger
from mainspring_svckit.clock import Clock
from mainspring_svckit.ports import Transactions, Work
from mainspring_svckit.repository import Repository
from mainspring_svckit.values import ArtifactRef


class Announcements(Protocol):
    """Tells other services what happened; joins the ambient transaction."""

    async def item_recorded(self, item: FeedbackItem) -> None:
        """Somebody judged an answer."""
        ...

    async def preferences_ready(self, firing: Firing, examples: ArtifactRef, count: int) -> None:
        """A file with `count` lessons waits; the loop turns again."""
        ...


class FileStore(Protocol):
    """The artifact store."""

    async def put_stream(
        self,
        project: str,
        chunks: AsyncIterable[bytes],
        *,
        max_bytes: int,
        media_type: str = "",
        filename: str = "",
    ) -> ArtifactRef:
        """Stores a stream; raises `QuotaExceeded` when there are more than `max_bytes`, and keeps nothing then."""
        ...


@dataclass(frozen=True)
class Ports:
    """Everything the use cases need; made once, in `main.py`. `new_id` gives UUIDs that sort by time."""

    transactions: Transactions
    answers: Repository[Answer]
    items: Repository[FeedbackItem]
    lessons: Repository[Lesson]
    judged_models: Repository[JudgedModel]
    triggers: Repository[RetrainingTrigger]
    announcements: Announcements
    files: FileStore
    work: Work
    clock: Clock
    new_id: Callable[[], str]
