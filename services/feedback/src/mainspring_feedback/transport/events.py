"""What feedback reacts to; one function per durable consumer."""

from __future__ import annotations

from mainspring.events.v1.inference_events_pb2 import ResponseCompleted
from mainspring_eventkit.cloudevents import Event
from mainspring_feedback.application.items import Items
from mainspring_feedback.transport import mapping
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import AnswerName, project_of


class Reactions:
    """Translates events and calls one use case each."""

    def __init__(self, items: Items) -> None:
        self._items = items

    async def on_response_completed(self, event: Event) -> None:
        """A model answered: feedback can be tied to it."""
        data = event.data
        assert isinstance(data, ResponseCompleted)
        AnswerName.parse(data.answer, "answer")
        if {project_of(data.answer), project_of(data.model_version)} != {event.project}:
            message = f"{data.answer} and {data.model_version} are not both of project {event.project!r}"
            raise InvalidInput(message, reason="PROJECTS_MIXED")
        await self._items.heard_of(mapping.answer_from_event(data, event.time))
