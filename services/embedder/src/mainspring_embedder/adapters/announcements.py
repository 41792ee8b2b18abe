"""What the embedder tells the others, as events in its outbox."""

from __future__ import annotations

from mainspring.events.v1 import embedding_events_pb2 as events
from mainspring_embedder.domain.collections import Collection
from mainspring_eventkit.outbox import Outbox


class OutboxAnnouncements:
    """`Announcements` in the outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def refreshed(self, collection: Collection) -> None:
        assert collection.active is not None
        event = events.CollectionRefreshed(
            collection=collection.name,
            index=collection.active.number,
            embedding_model_version=collection.embedding_model_version,
            document_count=collection.active.documents,
            chunk_count=collection.active.chunks,
        )
        await self._outbox.emit(event)
