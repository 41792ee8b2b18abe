"""Which models learned from a dataset version, as the registry knows."""

from __future__ import annotations

from typing import Any

import grpc

from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_svckit.errors import NotFound
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.names import ModelVersionName


class RegistryLineage:
    """`ModelLineage` by the registry's graph."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = pb_grpc.RegistryServiceStub(channel)
        self._caller = caller

    async def trained_on(self, dataset_version: str) -> list[str]:
        """See `ModelLineage`."""
        request = pb.GetLineageRequest(name=dataset_version, direction=pb.GetLineageRequest.DIRECTION_DOWNSTREAM)
        try:
            found = await self._caller.unary(self._stub.GetLineage, request, pb.GetLineageResponse)
        except NotFound:
            return []  # The registry has never heard of it: no model learned from it.
        return [node.name for node in found.nodes if ModelVersionName.matches(node.name)]
