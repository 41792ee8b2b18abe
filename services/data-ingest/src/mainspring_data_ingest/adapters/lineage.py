"""What the registry knows: which models learned from a dataset version, and the tokenizers of models."""

from __future__ import annotations

from typing import Any

import grpc

from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.names import ModelVersionName, ReleaseName
from mainspring_svckit.values import ArtifactRef

TOKENIZER = "hf/tokenizer.json"
"""Role of a tokenizer among a model version's files."""


class RegistryLineage:
    """`ModelLineage` by the registry's graph."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = pb_grpc.RegistryServiceStub(channel)
        self._caller = caller

    async def saw(self, dataset_version: str) -> list[str]:
        """See `ModelLineage`."""
        request = pb.GetLineageRequest(name=dataset_version, direction=pb.GetLineageRequest.DIRECTION_DOWNSTREAM)
        try:
            found = await self._caller.unary(self._stub.GetLineage, request, pb.GetLineageResponse)
        except NotFound:
            return []  # The registry has never heard of it: no model learned from it.
        return [
            node.name for node in found.nodes if ModelVersionName.matches(node.name) or ReleaseName.matches(node.name)
        ]


class RegistryTokenizers:
    """`Tokenizers` of the models that the registry has files of."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = pb_grpc.RegistryServiceStub(channel)
        self._caller = caller

    async def of(self, model_version: str) -> ArtifactRef:
        """See `Tokenizers`."""
        name = model_version
        while name:
            request = pb.GetModelVersionRequest(name=name)
            found = (
                await self._caller.unary(self._stub.GetModelVersion, request, pb.GetModelVersionResponse)
            ).model_version
            if TOKENIZER in found.artifacts:
                return artifact_from_proto(found.artifacts[TOKENIZER])
            name = found.base_model_version
        message = (
            f"the registry has no {TOKENIZER} of {model_version}; upload its tokenizer.json and give the step that file"
        )
        raise PreconditionFailed("MODEL_WITHOUT_TOKENIZER", message)
