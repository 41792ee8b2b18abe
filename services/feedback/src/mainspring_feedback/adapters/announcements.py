"""What feedback tells the others, as events in its outbox."""

from __future__ import annotations

from mainspring.events.v1 import feedback_events_pb2 as events
from mainspring_eventkit.outbox import Outbox
from mainspring_feedback.domain.judgements import FeedbackItem
from mainspring_feedback.domain.triggers import Firing
from mainspring_svckit.crash import crash_point
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_svckit.values import ArtifactRef


class OutboxAnnouncements:
    """`Announcements` in the outbox. What people wrote stays here; only the file of examples holds it."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def item_recorded(self, item: FeedbackItem) -> None:
        event = events.FeedbackItemRecorded(
            feedback_item=item.name,
            answer=item.answer,
            model_version=item.model_version,
            release=item.release,
            kind=item.judgement.kind.value,
            value=item.judgement.value,
        )
        await self._outbox.emit(event)
        crash_point("feedback-item:before-commit")

    async def preferences_ready(self, firing: Firing, examples: ArtifactRef, count: int) -> None:
        event = events.PreferencesReady(
            retraining_trigger=firing.trigger,
            model=firing.model,
            ingestion_recipe=firing.ingestion_recipe,
            examples=artifact_to_proto(examples),
            item_count=count,
        )
        await self._outbox.emit(event, cycle=firing.cycle, aggregate=firing.trigger)
        crash_point("examples:before-commit")
