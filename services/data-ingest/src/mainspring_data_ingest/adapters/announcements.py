"""What data-ingest tells the others, as events in its outbox."""

from __future__ import annotations

from mainspring.events.v1.data_events_pb2 import DatasetVersionPublished
from mainspring_data_ingest.domain.datasets import DatasetVersion
from mainspring_data_ingest.domain.splits import Split
from mainspring_eventkit.outbox import Outbox
from mainspring_svckit.crash import crash_point
from mainspring_svckit.mapping import artifact_to_proto

_MAX_SOURCES = 2000
"""Sources that an event names; with more it would outgrow what the bus takes."""


class OutboxAnnouncements:
    """`Announcements` in the outbox. Events are ordered per dataset."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def version_published(self, version: DatasetVersion) -> None:
        event = DatasetVersionPublished(
            dataset_version=version.name,
            dataset=version.dataset,
            root_sha256=version.root_sha256,
            manifest=artifact_to_proto(version.manifest),
            train_rows=version.tally.splits.get(Split.TRAIN, 0),
            validation_rows=version.tally.splits.get(Split.VALIDATION, 0),
            test_rows=version.tally.splits.get(Split.TEST, 0),
            refused_rows=sum(version.tally.refusals.values()),
            ingestion=version.ingestion,
            ingestion_recipe=version.ingestion_recipe,
            source_sha256s=list(dict.fromkeys(source.artifact.sha256 for source in version.sources))[:_MAX_SOURCES],
            supersedes=version.supersedes,
            ingestion_recipe_version=version.ingestion_recipe_version,
        )
        await self._outbox.emit(event, cycle=version.cycle, aggregate=version.dataset)
        crash_point("ingestion:before-commit")
