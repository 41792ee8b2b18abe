"""What data-ingest reacts to; one function per durable consumer."""

from __future__ import annotations

from mainspring.events.v1.feedback_events_pb2 import PreferencesReady
from mainspring_data_ingest.application.ingestions import Ingestions
from mainspring_eventkit.cloudevents import Event
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.names import IngestionRecipeName


class Reactions:
    """Translates events and calls one use case each."""

    def __init__(self, ingestions: Ingestions) -> None:
        self._ingestions = ingestions

    async def on_preferences_ready(self, event: Event) -> None:
        """Enough feedback waits: it is added to the dataset."""
        data = event.data
        assert isinstance(data, PreferencesReady)
        recipe = IngestionRecipeName.parse(data.ingestion_recipe, "ingestion_recipe")
        if recipe.project != event.project:
            raise InvalidInput(f"{recipe} is not a recipe of project {event.project!r}", reason="PROJECTS_MIXED")
        examples = artifact_from_proto(data.examples)
        await self._ingestions.add_examples(str(recipe), examples, new_id(), event.cycle or new_id())
