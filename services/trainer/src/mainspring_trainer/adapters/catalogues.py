"""What other services know of models and datasets, asked over gRPC."""

from __future__ import annotations

from typing import Any

import grpc

from mainspring.data.v1 import data_service_pb2, data_service_pb2_grpc
from mainspring.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from mainspring_svckit.errors import NotFound
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_trainer.application.ports import ModelVersion
from mainspring_trainer.domain.runs import Dataset


class RegistryModels:
    """`Models` of the registry."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self._caller = caller

    async def version(self, name: str) -> ModelVersion | None:
        request = registry_service_pb2.GetModelVersionRequest(name=name)
        try:
            answer = await self._caller.unary(
                self._stub.GetModelVersion, request, registry_service_pb2.GetModelVersionResponse
            )
        except NotFound:
            return None
        version = answer.model_version
        return ModelVersion(
            name=version.name,
            kind=model_pb2.ModelKind.Name(version.kind).removeprefix("MODEL_KIND_"),
            base_model_version=version.base_model_version,
            dataset_version=version.lineage.dataset_version,
            files={role: artifact_from_proto(artifact) for role, artifact in version.artifacts.items()},
            quantized_from=version.lineage.quantized_from,
        )


class IngestedDatasets:
    """`Datasets` of data-ingest."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = data_service_pb2_grpc.DataServiceStub(channel)
        self._caller = caller

    async def version(self, name: str) -> Dataset | None:
        request = data_service_pb2.GetDatasetVersionRequest(name=name)
        try:
            answer = await self._caller.unary(
                self._stub.GetDatasetVersion, request, data_service_pb2.GetDatasetVersionResponse
            )
        except NotFound:
            return None
        version = answer.dataset_version
        return Dataset(version.name, artifact_from_proto(version.manifest), version.root_sha256)
