"""Vectors from the embedder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from mainspring.embedding.v1 import embedding_service_pb2 as pb
from mainspring.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.names import ModelVersionName, ProjectName

_TIMEOUT_S = 120.0


class EmbedderEmbeddings:
    """`Embeddings` by way of `EmbeddingService`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = pb_grpc.EmbeddingServiceStub(channel)
        self._caller = caller

    async def embed(self, embedding_model_version: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        project = ModelVersionName.parse(embedding_model_version).project
        request = pb.EmbedTextsRequest(
            parent=str(ProjectName(project)), embedding_model_version=embedding_model_version, texts=texts
        )
        answer = await self._caller.unary(self._stub.EmbedTexts, request, pb.EmbedTextsResponse, timeout_s=_TIMEOUT_S)
        return [vector.values for vector in answer.vectors]
