"""Annotation: queues, items, labels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from mainspring.data.v1 import annotation_pb2, annotation_service_pb2_grpc, ingestion_pb2
from mainspring.data.v1 import annotation_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.errors import NotFound
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName

ITEMS_AT_ONCE = 200


class Annotation(Area):
    """Client of data-ingest's annotation service; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = annotation_service_pb2_grpc.AnnotationServiceStub(connection.channel("data-ingest"))

    async def put_queue(self, queue: annotation_pb2.AnnotationQueue) -> annotation_pb2.AnnotationQueue:
        """Makes or changes a queue."""
        request = pb.UpdateAnnotationQueueRequest(annotation_queue=queue, allow_missing=True, request_id=new_id())
        made = await self._unary(self.stub.UpdateAnnotationQueue, request, pb.UpdateAnnotationQueueResponse)
        return made.annotation_queue

    async def queue(self, name: str) -> annotation_pb2.AnnotationQueue:
        """A queue with its progress."""
        request = pb.GetAnnotationQueueRequest(name=name)
        found = await self._unary(self.stub.GetAnnotationQueue, request, pb.GetAnnotationQueueResponse)
        return found.annotation_queue

    def queues(self, project: str) -> AsyncIterator[annotation_pb2.AnnotationQueue]:
        """A project's queues by name."""
        request = pb.ListAnnotationQueuesRequest(parent=str(ProjectName(project)))
        return self._pages(
            self.stub.ListAnnotationQueues, request, pb.ListAnnotationQueuesResponse, lambda r: r.annotation_queues
        )

    async def add(self, queue: str, items: Sequence[annotation_pb2.AnnotationItem]) -> tuple[int, int]:
        """Adds items; returns how many are new, and how many were there."""
        added = known = 0
        for start in range(0, len(items), ITEMS_AT_ONCE):
            request = pb.AddAnnotationItemsRequest(
                parent=queue, annotation_items=items[start : start + ITEMS_AT_ONCE], request_id=new_id()
            )
            made = await self._unary(self.stub.AddAnnotationItems, request, pb.AddAnnotationItemsResponse, 60)
            added, known = added + made.added, known + made.known
        return added, known

    async def suggest(self, queue: str, suggestions: Mapping[str, annotation_pb2.Suggestion]) -> int:
        """Writes what a model would answer, by the items' names; returns for how many. Items that have a label by now
        are passed over.
        """
        given, suggested = list(suggestions.items()), 0
        for start in range(0, len(given), ITEMS_AT_ONCE):
            request = pb.SetAnnotationSuggestionsRequest(
                parent=queue,
                item_suggestions=[
                    pb.ItemSuggestion(annotation_item=item, suggestion=suggestion)
                    for item, suggestion in given[start : start + ITEMS_AT_ONCE]
                ],
                request_id=new_id(),
            )
            kind = pb.SetAnnotationSuggestionsResponse
            suggested += (await self._unary(self.stub.SetAnnotationSuggestions, request, kind, 60)).suggested
        return suggested

    async def claim(self, queue: str) -> annotation_pb2.AnnotationItem | None:
        """The next item for the caller; None when there is none."""
        request = pb.ClaimAnnotationItemRequest(parent=queue, request_id=new_id())
        try:
            made = await self._unary(self.stub.ClaimAnnotationItem, request, pb.ClaimAnnotationItemResponse)
        except NotFound as err:
            if err.reason == "ANNOTATION_ITEM_NOT_FOUND":
                return None
            raise
        return made.annotation_item

    async def submit(
        self, item: str, label: annotation_pb2.Label | None, comment: str = ""
    ) -> annotation_pb2.Annotation:
        """Records the caller's label; without one he skips the item."""
        request = pb.SubmitAnnotationRequest(name=item, label=label, comment=comment, request_id=new_id())
        return (await self._unary(self.stub.SubmitAnnotation, request, pb.SubmitAnnotationResponse)).annotation

    def items(
        self,
        queue: str,
        state: annotation_pb2.AnnotationItem.State.ValueType = annotation_pb2.AnnotationItem.STATE_UNSPECIFIED,
    ) -> AsyncIterator[annotation_pb2.AnnotationItem]:
        """A queue's items with what everybody said, in the order in which they were added."""
        request = pb.ListAnnotationItemsRequest(parent=queue, state=state)
        return self._pages(
            self.stub.ListAnnotationItems, request, pb.ListAnnotationItemsResponse, lambda r: r.annotation_items
        )

    async def adjudicate(self, item: str, label: annotation_pb2.Label) -> annotation_pb2.AnnotationItem:
        """Decides on a disputed item."""
        request = pb.AdjudicateAnnotationItemRequest(name=item, label=label, request_id=new_id())
        made = await self._unary(self.stub.AdjudicateAnnotationItem, request, pb.AdjudicateAnnotationItemResponse)
        return made.annotation_item

    async def report(self, queue: str) -> annotation_pb2.AnnotationReport:
        """How well people agree."""
        request = pb.GetAnnotationReportRequest(name=queue)
        found = await self._unary(self.stub.GetAnnotationReport, request, pb.GetAnnotationReportResponse, 60)
        return found.annotation_report

    async def publish(self, queue: str, recipe: str) -> tuple[ingestion_pb2.Ingestion, int]:
        """Adds what is labelled to a recipe's dataset; returns the ingestion and its rows."""
        request = pb.PublishAnnotationQueueRequest(name=queue, ingestion_recipe=recipe, request_id=new_id())
        made = await self._unary(self.stub.PublishAnnotationQueue, request, pb.PublishAnnotationQueueResponse, 60)
        return made.ingestion, made.rows
