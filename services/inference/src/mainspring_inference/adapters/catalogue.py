"""The registry, asked for what serves a version."""

from __future__ import annotations

import grpc

from mainspring.registry.v1 import model_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_inference.application.ports import ServableVersion
from mainspring_inference.domain.deployments import Serving
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.values import ArtifactRef

BASE_ROLE = "gguf"
ADAPTER_ROLE = "adapter.gguf"


class RegistryCatalogue:
    """`Catalogue` by gRPC."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub = pb_grpc.RegistryServiceStub(channel)
        self._caller = caller

    async def servable(self, model_version: str) -> ServableVersion:
        version = await self._version(model_version)
        is_adapter = version.kind == model_pb2.MODEL_KIND_ADAPTER
        base = await self._version(version.base_model_version) if is_adapter else version
        spec = version.serving
        return ServableVersion(
            model_version=version.name,
            embedding=version.kind == model_pb2.MODEL_KIND_EMBEDDING,
            base=_artifact(base, BASE_ROLE),
            adapter=_artifact(version, ADAPTER_ROLE) if is_adapter else None,
            serving=Serving(
                context_tokens=spec.context_tokens,
                chat_template=spec.chat_template,
                bos_token=spec.bos_token,
                eos_token=spec.eos_token,
                dimensions=spec.dimensions,
            ),
        )

    async def _version(self, name: str) -> model_pb2.ModelVersion:
        request = pb.GetModelVersionRequest(name=name)
        answer = await self._caller.unary(self._stub.GetModelVersion, request, pb.GetModelVersionResponse)
        return answer.model_version


def _artifact(version: model_pb2.ModelVersion, role: str) -> ArtifactRef:
    if role not in version.artifacts:
        message = f"{version.name} has no file {role!r}, so it cannot be served; import or train it again"
        raise PreconditionFailed("FILE_MISSING", message, {"modelVersion": version.name, "role": role})
    return artifact_from_proto(version.artifacts[role])
