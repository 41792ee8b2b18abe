"""`mainspring.data.v1.AnnotationService`."""

from __future__ import annotations

from typing import Any

from mainspring.data.v1 import annotation_service_pb2 as pb
from mainspring.data.v1 import annotation_service_pb2_grpc as pb_grpc
from mainspring_data_ingest.application.annotations import AnnotationPorts, Annotations
from mainspring_data_ingest.transport import annotation_mapping as mapping
from mainspring_data_ingest.transport.mapping import ingestion_to_proto
from mainspring_svckit.auth import current_principal
from mainspring_svckit.mapping import time_to_proto
from mainspring_svckit.pagination import Page, next_page_token
from mainspring_svckit.reading import Reader

NAME = "mainspring.data.v1.AnnotationService"


class AnnotationServicer(pb_grpc.AnnotationServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: AnnotationPorts, annotations: Annotations) -> None:
        self._ports, self._annotations = ports, annotations
        self._reader = Reader(ports.transactions)

    async def UpdateAnnotationQueue(
        self, request: pb.UpdateAnnotationQueueRequest, context: Any
    ) -> pb.UpdateAnnotationQueueResponse:
        stored, counts = await self._annotations.put_queue(
            mapping.queue_from_proto(request.annotation_queue),
            etag=request.annotation_queue.etag,
            allow_missing=request.allow_missing,
        )
        return pb.UpdateAnnotationQueueResponse(annotation_queue=mapping.queue_to_proto(stored, counts))

    async def GetAnnotationQueue(
        self, request: pb.GetAnnotationQueueRequest, context: Any
    ) -> pb.GetAnnotationQueueResponse:
        found = await self._reader.get(self._ports.queues, "AnnotationQueue", request.name)
        counts = await self._annotations.counts(request.name)
        return pb.GetAnnotationQueueResponse(annotation_queue=mapping.queue_to_proto(found, counts))

    async def ListAnnotationQueues(
        self, request: pb.ListAnnotationQueuesRequest, context: Any
    ) -> pb.ListAnnotationQueuesResponse:
        listed, token = await self._reader.list(self._ports.queues, request)
        queues = [mapping.queue_to_proto(q, await self._annotations.counts(q.value.name)) for q in listed.items]
        return pb.ListAnnotationQueuesResponse(annotation_queues=queues, next_page_token=token)

    async def AddAnnotationItems(
        self, request: pb.AddAnnotationItemsRequest, context: Any
    ) -> pb.AddAnnotationItemsResponse:
        items = [mapping.item_from_proto(item) for item in request.annotation_items]
        added, known = await self._annotations.add(request.parent, items)
        return pb.AddAnnotationItemsResponse(added=added, known=known)

    async def SetAnnotationSuggestions(
        self, request: pb.SetAnnotationSuggestionsRequest, context: Any
    ) -> pb.SetAnnotationSuggestionsResponse:
        given = {one.annotation_item: mapping.suggestion_from_proto(one.suggestion) for one in request.item_suggestions}
        suggested = await self._annotations.suggest(request.parent, given)
        return pb.SetAnnotationSuggestionsResponse(suggested=suggested, passed_over=len(given) - suggested)

    async def ClaimAnnotationItem(
        self, request: pb.ClaimAnnotationItemRequest, context: Any
    ) -> pb.ClaimAnnotationItemResponse:
        item, expire_time = await self._annotations.claim(request.parent, current_principal.get().subject)
        return pb.ClaimAnnotationItemResponse(
            annotation_item=mapping.question_to_proto(item), expire_time=time_to_proto(expire_time)
        )

    async def SubmitAnnotation(self, request: pb.SubmitAnnotationRequest, context: Any) -> pb.SubmitAnnotationResponse:
        label = mapping.label_from_proto(request.label) if request.HasField("label") else None
        said = await self._annotations.submit(request.name, current_principal.get().subject, label, request.comment)
        return pb.SubmitAnnotationResponse(annotation=mapping.annotation_to_proto(said))

    async def GetAnnotationItem(
        self, request: pb.GetAnnotationItemRequest, context: Any
    ) -> pb.GetAnnotationItemResponse:
        found = await self._reader.get(self._ports.items, "AnnotationItem", request.name)
        return pb.GetAnnotationItemResponse(annotation_item=mapping.item_to_proto(found.value))

    async def ListAnnotationItems(
        self, request: pb.ListAnnotationItemsRequest, context: Any
    ) -> pb.ListAnnotationItemsResponse:
        bound = (request.parent, str(request.state))
        page = Page.of(request.page_size, request.page_token, *bound)
        async with self._ports.transactions.transaction():
            listed = await self._ports.items.list_in(request.parent, mapping.state_from_proto(request.state), page)
        return pb.ListAnnotationItemsResponse(
            annotation_items=[mapping.item_to_proto(item.value) for item in listed.items],
            next_page_token=next_page_token(listed.next_key, *bound),
        )

    async def AdjudicateAnnotationItem(
        self, request: pb.AdjudicateAnnotationItemRequest, context: Any
    ) -> pb.AdjudicateAnnotationItemResponse:
        label = mapping.label_from_proto(request.label)
        item = await self._annotations.adjudicate(request.name, label, current_principal.get().subject)
        return pb.AdjudicateAnnotationItemResponse(annotation_item=mapping.item_to_proto(item))

    async def GetAnnotationReport(
        self, request: pb.GetAnnotationReportRequest, context: Any
    ) -> pb.GetAnnotationReportResponse:
        report = await self._annotations.report(request.name)
        return pb.GetAnnotationReportResponse(annotation_report=mapping.report_to_proto(report))

    async def PublishAnnotationQueue(
        self, request: pb.PublishAnnotationQueueRequest, context: Any
    ) -> pb.PublishAnnotationQueueResponse:
        ingestion, rows = await self._annotations.publish(request.name, request.ingestion_recipe)
        return pb.PublishAnnotationQueueResponse(ingestion=ingestion_to_proto(ingestion), rows=rows)
