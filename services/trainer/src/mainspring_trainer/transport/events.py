"""What the trainer reacts to; one function per durable consumer."""

from __future__ import annotations

from mainspring.events.v1 import data_events_pb2
from mainspring_eventkit.cloudevents import Event
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_trainer.application.runs import Runs
from mainspring_trainer.domain.runs import Dataset


class Reactions:
    """Translates events and calls one use case each."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def on_dataset_version_published(self, event: Event) -> None:
        """A dataset has a new version: the runs that recipes ask for are queued."""
        data = event.data
        assert isinstance(data, data_events_pb2.DatasetVersionPublished)
        version = Dataset(data.dataset_version, artifact_from_proto(data.manifest), data.root_sha256)
        await self._runs.dataset_published(data.dataset, version, event.cycle)
