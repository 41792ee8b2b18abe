"""Context from the embedder."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from mainspring.embedding.v1 import embedding_service_pb2 as pb
from mainspring.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from mainspring_answers.domain import Passage
from mainspring_svckit.grpc_client import Caller

_MAX_QUERY_CHARACTERS = 10_000


class EmbedderContext:
    """`Context` by way of the embedder's search."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub = pb_grpc.EmbeddingServiceStub(channel)
        self._caller = caller

    async def search(self, collection: str, query: str, top_k: int) -> Sequence[Passage]:
        request = pb.SearchCollectionRequest(name=collection, query=query[:_MAX_QUERY_CHARACTERS], top_k=top_k)
        found = await self._caller.unary(self._stub.SearchCollection, request, pb.SearchCollectionResponse)
        return [Passage(p.document_id, p.title, p.uri, p.text, p.score) for p in found.passages]
