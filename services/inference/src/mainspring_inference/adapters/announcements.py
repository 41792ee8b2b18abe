"""What inference tells the others, as events in its outbox, ordered per model."""

from __future__ import annotations

from google.protobuf.message import Message

from mainspring.events.v1 import inference_events_pb2 as events
from mainspring_eventkit.outbox import Outbox
from mainspring_inference.domain.rollouts import Rollout


class OutboxAnnouncements:
    """`Announcements` in the outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def started(self, rollout: Rollout) -> None:
        await self._emit(
            rollout,
            events.RolloutStarted(rollout=rollout.name, release=rollout.release, model_version=rollout.model_version),
        )

    async def advanced(self, rollout: Rollout) -> None:
        await self._emit(
            rollout,
            events.RolloutAdvanced(rollout=rollout.name, release=rollout.release, percent=rollout.percent),
        )

    async def promoted(self, rollout: Rollout) -> None:
        await self._emit(
            rollout,
            events.RolloutPromoted(rollout=rollout.name, release=rollout.release, model_version=rollout.model_version),
        )

    async def rolled_back(self, rollout: Rollout) -> None:
        await self._emit(
            rollout,
            events.RolloutRolledBack(
                rollout=rollout.name,
                release=rollout.release,
                model_version=rollout.model_version,
                reason=rollout.reason,
            ),
        )

    async def _emit(self, rollout: Rollout, event: Message) -> None:
        await self._outbox.emit(event, cycle=rollout.cycle, aggregate=rollout.model)
