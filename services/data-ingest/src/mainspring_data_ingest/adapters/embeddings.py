"""Vectors from the embedder."""

from __future__ import annotations

from typing import Any

import grpc

from mainspring.embedding.v1 import embedding_service_pb2 as pb
from mainspring.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.names import ProjectName

_TEXTS_PER_CALL = 64
_TIMEOUT_S = 120.0


class EmbedderEmbeddings:
    """`Embeddings` by way of `EmbeddingService`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = pb_grpc.EmbeddingServiceStub(channel)
        self._caller = caller

    async def embed(self, project: str, model: str, texts: list[str]) -> tuple[list[list[float]], str]:
        """See `Embeddings`."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            request = pb.EmbedTextsRequest(
                parent=str(ProjectName(project)),
                embedding_model_version=model,
                texts=texts[start : start + _TEXTS_PER_CALL],
            )
            answer = await self._caller.unary(
                self._stub.EmbedTexts, request, pb.EmbedTextsResponse, timeout_s=_TIMEOUT_S
            )
            vectors += [list(vector.values) for vector in answer.vectors]
            model = answer.embedding_model_version
        return vectors, model
