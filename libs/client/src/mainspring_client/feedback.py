"""What people say of answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from mainspring.feedback.v1 import feedback_pb2, feedback_service_pb2_grpc
from mainspring.feedback.v1 import feedback_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName

_NEWS_TRAVELS_S = 20.0


class Feedback(Area):
    """Client of the feedback service; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = feedback_service_pb2_grpc.FeedbackServiceStub(connection.channel("feedback"))

    async def send(self, item: feedback_pb2.FeedbackItem, *, request_id: str = "") -> feedback_pb2.FeedbackItem:
        """Records a judgement of an answer. An answer that was given this moment may take a moment to be known; that
        is waited for.
        """
        request = pb.CreateFeedbackItemRequest(
            parent="/".join(item.answer.split("/")[:2]), feedback_item=item, request_id=request_id or new_id()
        )
        ends = time.monotonic() + _NEWS_TRAVELS_S
        while True:
            try:
                response = await self._unary(self.stub.CreateFeedbackItem, request, pb.CreateFeedbackItemResponse)
            except Unavailable as err:
                if err.reason != "ANSWER_NOT_KNOWN_YET" or time.monotonic() > ends:
                    raise
                await asyncio.sleep(err.retry_after_s)
            else:
                return response.feedback_item

    def items(self, project: str, answer: str = "") -> AsyncIterator[feedback_pb2.FeedbackItem]:
        """A project's feedback, newest first; of one answer when that is given."""
        request = pb.ListFeedbackItemsRequest(parent=str(ProjectName(project)), answer=answer)
        return self._pages(
            self.stub.ListFeedbackItems, request, pb.ListFeedbackItemsResponse, lambda r: r.feedback_items
        )
