"""`mainspring.feedback.v1.FeedbackService`."""

from __future__ import annotations

from typing import Any

from mainspring.feedback.v1 import feedback_service_pb2 as pb
from mainspring.feedback.v1 import feedback_service_pb2_grpc as pb_grpc
from mainspring_feedback.application.items import Items
from mainspring_feedback.application.judged import JudgedAnswers
from mainspring_feedback.application.ports import Ports
from mainspring_feedback.application.triggers import Triggers
from mainspring_feedback.transport import mapping
from mainspring_svckit.auth import current_principal
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName
from mainspring_svckit.pagination import Page, next_page_token
from mainspring_svckit.reading import Reader

NAME = "mainspring.feedback.v1.FeedbackService"


class FeedbackServicer(pb_grpc.FeedbackServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: Ports, items: Items, triggers: Triggers) -> None:
        self._ports, self._items, self._triggers = ports, items, triggers
        self._judged = JudgedAnswers(ports)
        self._reader = Reader(ports.transactions)

    async def CreateFeedbackItem(
        self, request: pb.CreateFeedbackItemRequest, context: Any
    ) -> pb.CreateFeedbackItemResponse:
        project = ProjectName.parse(request.parent, "parent").project
        author = current_principal.get().subject
        item = await self._items.create(mapping.item_from_proto(project, new_id(), author, request.feedback_item))
        return pb.CreateFeedbackItemResponse(feedback_item=mapping.item_to_proto(item))

    async def GetFeedbackItem(self, request: pb.GetFeedbackItemRequest, context: Any) -> pb.GetFeedbackItemResponse:
        found = await self._reader.get(self._ports.items, "FeedbackItem", request.name)
        return pb.GetFeedbackItemResponse(feedback_item=mapping.item_to_proto(found.value))

    async def ListFeedbackItems(
        self, request: pb.ListFeedbackItemsRequest, context: Any
    ) -> pb.ListFeedbackItemsResponse:
        page = Page.of(request.page_size, request.page_token, request.parent, request.answer)
        items, next_key = await self._items.page(request.parent, request.answer, page)
        return pb.ListFeedbackItemsResponse(
            feedback_items=[mapping.item_to_proto(item) for item in items],
            next_page_token=next_page_token(next_key, request.parent, request.answer),
        )

    async def ListJudgedAnswers(
        self, request: pb.ListJudgedAnswersRequest, context: Any
    ) -> pb.ListJudgedAnswersResponse:
        wanted = mapping.filter_from_proto(request)
        query = (request.parent, repr(wanted))
        found, next_key = await self._judged.page(
            request.parent, wanted, Page.of(request.page_size, request.page_token, *query)
        )
        return pb.ListJudgedAnswersResponse(
            judged_answers=map(mapping.judged_to_proto, found), next_page_token=next_page_token(next_key, *query)
        )

    async def EraseFeedbackContent(
        self, request: pb.EraseFeedbackContentRequest, context: Any
    ) -> pb.EraseFeedbackContentResponse:
        answers, items = await self._judged.erase(request.parent, request.text)
        return pb.EraseFeedbackContentResponse(erased_answers=answers, erased_feedback_items=items)

    async def UpdateRetrainingTrigger(
        self, request: pb.UpdateRetrainingTriggerRequest, context: Any
    ) -> pb.UpdateRetrainingTriggerResponse:
        stored = await self._triggers.put(mapping.trigger_from_proto(request))
        return pb.UpdateRetrainingTriggerResponse(retraining_trigger=mapping.trigger_to_proto(stored))

    async def GetRetrainingTrigger(
        self, request: pb.GetRetrainingTriggerRequest, context: Any
    ) -> pb.GetRetrainingTriggerResponse:
        found = await self._reader.get(self._ports.triggers, "RetrainingTrigger", request.name)
        return pb.GetRetrainingTriggerResponse(retraining_trigger=mapping.trigger_to_proto(found))

    async def ListRetrainingTriggers(
        self, request: pb.ListRetrainingTriggersRequest, context: Any
    ) -> pb.ListRetrainingTriggersResponse:
        listed, token = await self._reader.list(self._ports.triggers, request)
        return pb.ListRetrainingTriggersResponse(
            retraining_triggers=[mapping.trigger_to_proto(item) for item in listed.items], next_page_token=token
        )
