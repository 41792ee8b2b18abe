"""`mainspring.registry.v1.RegistryService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.imports import Imports
from mainspring_registry.application.lineage import Lineages
from mainspring_registry.application.ports import Ports
from mainspring_registry.application.releases import Releases
from mainspring_registry.domain.imports import IMPORT_STATES, ModelImport
from mainspring_registry.transport import mapping
from mainspring_svckit.database import Listener
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ModelName, ProjectName
from mainspring_svckit.reading import Reader
from mainspring_svckit.watching import follow

NAME = "mainspring.registry.v1.RegistryService"


class RegistryServicer(pb_grpc.RegistryServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(
        self,
        ports: Ports,
        catalogue: Catalogue,
        imports: Imports,
        releases: Releases,
        lineages: Lineages,
        listener: Listener,
    ) -> None:
        self._ports, self._catalogue, self._imports, self._releases = ports, catalogue, imports, releases
        self._lineages = lineages
        self._listener = listener
        self._reader = Reader(ports.transactions)

    async def CreateModelImport(
        self, request: pb.CreateModelImportRequest, context: Any
    ) -> pb.CreateModelImportResponse:
        project = ProjectName.parse(request.parent, "parent").project
        command = mapping.import_from_proto(project, new_id(), request.model_import)
        return pb.CreateModelImportResponse(model_import=mapping.import_to_proto(await self._imports.create(command)))

    async def GetModelImport(self, request: pb.GetModelImportRequest, context: Any) -> pb.GetModelImportResponse:
        found = await self._reader.get(self._ports.imports, "ModelImport", request.name)
        return pb.GetModelImportResponse(model_import=mapping.import_to_proto(found.value))

    async def ListModelImports(self, request: pb.ListModelImportsRequest, context: Any) -> pb.ListModelImportsResponse:
        listed, token = await self._reader.list(self._ports.imports, request)
        return pb.ListModelImportsResponse(
            model_imports=[mapping.import_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def WatchModelImport(
        self, request: pb.WatchModelImportRequest, context: Any
    ) -> AsyncIterator[pb.WatchModelImportResponse]:
        async def read() -> ModelImport:
            return (await self._reader.get(self._ports.imports, "ModelImport", request.name)).value

        async for work in follow(self._listener, request.name, read, lambda work: IMPORT_STATES.ended(work.state)):
            yield pb.WatchModelImportResponse(model_import=mapping.import_to_proto(work))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        found = await self._reader.get(self._ports.models, "Model", request.name)
        return pb.GetModelResponse(model=mapping.model_to_proto(found.value))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        listed, token = await self._reader.list(self._ports.models, request)
        return pb.ListModelsResponse(
            models=[mapping.model_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def GetModelVersion(self, request: pb.GetModelVersionRequest, context: Any) -> pb.GetModelVersionResponse:
        version = await self._catalogue.version(request.name)
        return pb.GetModelVersionResponse(model_version=mapping.version_to_proto(version))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        listed, token = await self._reader.list(self._ports.versions, request)
        return pb.ListModelVersionsResponse(
            model_versions=[mapping.version_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def SetModelAlias(self, request: pb.SetModelAliasRequest, context: Any) -> pb.SetModelAliasResponse:
        model = await self._catalogue.set_alias(request.name, request.alias, request.model_version)
        return pb.SetModelAliasResponse(model=mapping.model_to_proto(model))

    async def UpdateReleasePolicy(
        self, request: pb.UpdateReleasePolicyRequest, context: Any
    ) -> pb.UpdateReleasePolicyResponse:
        stored = await self._releases.put_policy(
            mapping.policy_from_proto(request.release_policy),
            etag=request.release_policy.etag,
            allow_missing=request.allow_missing,
        )
        return pb.UpdateReleasePolicyResponse(release_policy=mapping.policy_to_proto(stored))

    async def GetReleasePolicy(self, request: pb.GetReleasePolicyRequest, context: Any) -> pb.GetReleasePolicyResponse:
        found = await self._reader.get(self._ports.policies, "ReleasePolicy", request.name)
        return pb.GetReleasePolicyResponse(release_policy=mapping.policy_to_proto(found))

    async def ListReleasePolicies(
        self, request: pb.ListReleasePoliciesRequest, context: Any
    ) -> pb.ListReleasePoliciesResponse:
        listed, token = await self._reader.list(self._ports.policies, request)
        return pb.ListReleasePoliciesResponse(
            release_policies=[mapping.policy_to_proto(item) for item in listed.items], next_page_token=token
        )

    async def GetGateDecision(self, request: pb.GetGateDecisionRequest, context: Any) -> pb.GetGateDecisionResponse:
        found = await self._reader.get(self._ports.decisions, "GateDecision", request.name)
        return pb.GetGateDecisionResponse(gate_decision=mapping.decision_to_proto(found.value))

    async def ListGateDecisions(
        self, request: pb.ListGateDecisionsRequest, context: Any
    ) -> pb.ListGateDecisionsResponse:
        listed, token = await self._reader.list(self._ports.decisions, request)
        return pb.ListGateDecisionsResponse(
            gate_decisions=[mapping.decision_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def CreateRelease(self, request: pb.CreateReleaseRequest, context: Any) -> pb.CreateReleaseResponse:
        model = str(ModelName.parse(request.parent, "parent"))
        release = await self._releases.create(model, request.model_version)
        return pb.CreateReleaseResponse(release=mapping.release_to_proto(release))

    async def GetRelease(self, request: pb.GetReleaseRequest, context: Any) -> pb.GetReleaseResponse:
        found = await self._reader.get(self._ports.releases, "Release", request.name)
        return pb.GetReleaseResponse(release=mapping.release_to_proto(found.value))

    async def ListReleases(self, request: pb.ListReleasesRequest, context: Any) -> pb.ListReleasesResponse:
        listed, token = await self._reader.list(self._ports.releases, request)
        return pb.ListReleasesResponse(
            releases=[mapping.release_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def RevokeRelease(self, request: pb.RevokeReleaseRequest, context: Any) -> pb.RevokeReleaseResponse:
        release = await self._releases.revoke(request.name, request.reason)
        return pb.RevokeReleaseResponse(release=mapping.release_to_proto(release))

    async def GetCycle(self, request: pb.GetCycleRequest, context: Any) -> pb.GetCycleResponse:
        found = await self._reader.get(self._ports.cycles, "Cycle", request.name)
        return pb.GetCycleResponse(cycle=mapping.cycle_to_proto(found.value))

    async def ListCycles(self, request: pb.ListCyclesRequest, context: Any) -> pb.ListCyclesResponse:
        listed, token = await self._reader.list(self._ports.cycles, request)
        return pb.ListCyclesResponse(
            cycles=[mapping.cycle_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def GetLineage(self, request: pb.GetLineageRequest, context: Any) -> pb.GetLineageResponse:
        direction = mapping.direction_from_proto(request.direction)
        return mapping.walk_to_proto(await self._lineages.walk(request.name, direction, request.max_hops))
