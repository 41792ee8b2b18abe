"""The embedder and the feedback service, by gRPC."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from mainspring.embedding.v1 import embedding_service_pb2, embedding_service_pb2_grpc
from mainspring.feedback.v1 import feedback_pb2, feedback_service_pb2, feedback_service_pb2_grpc
from mainspring_gateway.application.ports import Embedded, Judgement
from mainspring_svckit.grpc_client import Caller


class EmbedderClient:
    """`Embeddings` by gRPC, in the gateway's own name; the caller's rights were checked at the door."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        self._caller = caller

    async def embed(self, project: str, model: str, texts: Sequence[str]) -> Embedded:
        request = embedding_service_pb2.EmbedTextsRequest(
            parent=f"projects/{project}", embedding_model_version=model, texts=texts
        )
        made = await self._caller.unary(
            self._stub.EmbedTexts, request, embedding_service_pb2.EmbedTextsResponse, timeout_s=60
        )
        vectors = [vector.values for vector in made.vectors]
        return Embedded(vectors, made.embedding_model_version, made.usage.input_tokens)


class FeedbackClient:
    """`Feedback` by gRPC, in the caller's name, so that the item's author is right."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = feedback_service_pb2_grpc.FeedbackServiceStub(channel)

    async def send(self, project: str, judgement: Judgement, *, request_id: str, authorization: str) -> str:
        item = feedback_pb2.FeedbackItem(answer=judgement.answer, comment=judgement.comment)
        if judgement.thumb is not None:
            item.thumb = judgement.thumb
        elif judgement.score is not None:
            item.score = judgement.score
        elif judgement.correction is not None:
            item.correction = judgement.correction
        elif judgement.rejected_answer is not None:
            item.preference.rejected_answer = judgement.rejected_answer
        request = feedback_service_pb2.CreateFeedbackItemRequest(
            parent=f"projects/{project}", feedback_item=item, request_id=request_id
        )
        caller = Caller(authorization.partition(" ")[2])
        made = await caller.unary(
            self._stub.CreateFeedbackItem, request, feedback_service_pb2.CreateFeedbackItemResponse
        )
        return made.feedback_item.name
