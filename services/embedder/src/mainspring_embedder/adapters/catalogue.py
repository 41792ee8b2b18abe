"""What the registry says of models."""

from __future__ import annotations

from typing import Any

import grpc

from mainspring.registry.v1 import model_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_svckit.grpc_client import Caller


class RegistryCatalogue:
    """`ModelCatalogue` by way of `RegistryService`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = pb_grpc.RegistryServiceStub(channel)
        self._caller = caller

    async def newest_version(self, model: str) -> str:
        request = pb.GetModelRequest(name=model)
        found = (await self._caller.unary(self._stub.GetModel, request, pb.GetModelResponse)).model
        if not found.latest_version:
            raise NotFound("ModelVersion", model)
        return found.latest_version

    async def require_embedding_model(self, version: str) -> None:
        request = pb.GetModelVersionRequest(name=version)
        found = await self._caller.unary(self._stub.GetModelVersion, request, pb.GetModelVersionResponse)
        if found.model_version.kind != model_pb2.MODEL_KIND_EMBEDDING:
            raise PreconditionFailed("NOT_AN_EMBEDDING_MODEL", f"{version} makes no vectors; name an embedding model")
