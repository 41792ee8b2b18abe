"""What inference reacts to; one function per durable consumer."""

from __future__ import annotations

from mainspring.events.v1 import inference_events_pb2, registry_events_pb2
from mainspring_eventkit.cloudevents import Event
from mainspring_inference.application.rollouts import Rollouts
from mainspring_inference.domain.rollouts import Served


class Reactions:
    """Translates events and calls one use case each."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts

    async def on_released(self, event: Event) -> None:
        """A version may serve: its roll-out begins."""
        data = event.data
        assert isinstance(data, registry_events_pb2.ModelReleased)
        await self._rollouts.start(data.release, data.model_version, event.cycle)

    async def on_revoked(self, event: Event) -> None:
        """A release was taken back: the restored one gets its traffic."""
        data = event.data
        assert isinstance(data, registry_events_pb2.ReleaseRevoked)
        restored = None
        if data.restored_release:
            restored = Served(data.restored_release, data.restored_model_version, event.cycle)
        await self._rollouts.revoked(data.release, data.reason, restored, restore_id=event.id[-12:])

    async def on_answered(self, event: Event) -> None:
        """An answer was given: a roll-out counts it."""
        data = event.data
        assert isinstance(data, inference_events_pb2.ResponseCompleted)
        if data.finish_reason != "CANCELLED":
            await self._rollouts.count(data.model_version, data.release, failed=data.finish_reason == "ERROR")
