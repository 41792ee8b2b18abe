"""What the evaluator reacts to; one function per durable consumer."""

from __future__ import annotations

from mainspring.events.v1 import feedback_events_pb2, inference_events_pb2, registry_events_pb2
from mainspring_evaluator.application.drift import Traffic
from mainspring_evaluator.application.runs import Runs
from mainspring_evaluator.transport.drift import asked_of
from mainspring_eventkit.cloudevents import Event

_GOOD = 0.5


class Reactions:
    """Translates events and calls one use case each."""

    def __init__(self, runs: Runs, traffic: Traffic) -> None:
        self._runs, self._traffic = runs, traffic

    async def on_version_registered(self, event: Event) -> None:
        """The catalogue has a new version: each suite of its model measures it."""
        data = event.data
        assert isinstance(data, registry_events_pb2.ModelVersionRegistered)
        await self._runs.react(data.model, data.model_version, event.cycle)

    async def on_answered(self, event: Event) -> None:
        """A released version answered somebody. What services ask, such as this one, is no traffic."""
        data = event.data
        assert isinstance(data, inference_events_pb2.ResponseCompleted)
        wanted = data.release and data.messages and not data.caller.startswith("service:")
        if wanted and data.finish_reason in {"STOP", "LENGTH"}:
            await self._traffic.answered(asked_of(data))

    async def on_judged(self, event: Event) -> None:
        """A person said what an answer is worth."""
        data = event.data
        assert isinstance(data, feedback_events_pb2.FeedbackItemRecorded)
        if data.kind in {"THUMB", "SCORE", "CORRECTION"}:
            # Who corrects an answer says that it was not good.
            await self._traffic.judged(data.answer, data.value >= _GOOD)
