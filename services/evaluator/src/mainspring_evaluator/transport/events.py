"""What the evaluator reacts to; one function per durable consumer."""

from __future__ import annotations

from mainspring.events.v1 import registry_events_pb2
from mainspring_evaluator.application.runs import Runs
from mainspring_eventkit.cloudevents import Event


class Reactions:
    """Translates events and calls one use case each."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def on_version_registered(self, event: Event) -> None:
        """The catalogue has a new version: each suite of its model measures it."""
        data = event.data
        assert isinstance(data, registry_events_pb2.ModelVersionRegistered)
        await self._runs.react(data.model, data.model_version, event.cycle)
