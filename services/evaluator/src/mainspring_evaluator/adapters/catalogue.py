"""What the registry says of models."""

from __future__ import annotations

from typing import Any

import grpc

from mainspring.registry.v1 import model_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_evaluator.application.ports import Units, VersionInfo
from mainspring_evaluator.domain.fidelity import PROBE_ROLE
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.mapping import artifact_from_proto, unit_from_proto
from mainspring_svckit.names import ModelName, ModelVersionName


class RegistryCatalogue:
    """`ModelCatalogue` by way of `RegistryService`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = pb_grpc.RegistryServiceStub(channel)
        self._caller = caller

    async def version(self, name: str) -> VersionInfo:
        version = await self._version(name)
        parsed = ModelVersionName.parse(version.name)
        probe = version.artifacts.get(PROBE_ROLE)
        return VersionInfo(
            name=version.name,
            model=str(ModelName(parsed.project, parsed.model)),
            base=version.base_model_version,
            manifest_sha256=version.manifest.sha256,
            dataset_version=version.lineage.dataset_version,
            cycle=version.cycle,
            probe=artifact_from_proto(probe) if probe is not None else None,
            parent=version.lineage.parent_model_version or version.lineage.quantized_from,
            also_learned=tuple(sorted(await self._merged_data(version.lineage))),
        )

    async def units(self, model: str) -> Units:
        request = pb.GetServedUnitsRequest(name=model)
        found = await self._caller.unary(self._stub.GetServedUnits, request, pb.GetServedUnitsResponse)
        return Units(unit_from_proto(found.next), unit_from_proto(found.active), found.active_model_version)

    async def _version(self, name: str) -> model_pb2.ModelVersion:
        request = pb.GetModelVersionRequest(name=name)
        answer = await self._caller.unary(self._stub.GetModelVersion, request, pb.GetModelVersionResponse)
        return answer.model_version

    async def _merged_data(self, lineage: model_pb2.Lineage) -> set[str]:
        """Data of the versions that were merged into a version, however far back."""
        learned: set[str] = set()
        seen: set[str] = set()
        open_ = [*lineage.merged_from, lineage.quantized_from]
        while open_:
            name = open_.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            found = (await self._version(name)).lineage
            learned |= {found.dataset_version} - {""}
            open_ += [*found.merged_from, found.quantized_from]
        return learned

    async def released_version(self, model: str) -> str:
        # The active release and not the alias `champion`, which moves only at the end of a roll-out: what the gate
        # compares with is what was released last.
        request = pb.GetModelRequest(name=model)
        found = (await self._caller.unary(self._stub.GetModel, request, pb.GetModelResponse)).model
        if not found.active_release:
            return ""
        wanted = pb.GetReleaseRequest(name=found.active_release)
        answer = await self._caller.unary(self._stub.GetRelease, wanted, pb.GetReleaseResponse)
        return answer.release.model_version
