"""`mainspring.registry.v1.RegistryService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_registry.application.cards import Cards
from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.gate import Gate
from mainspring_registry.application.imports import Imports
from mainspring_registry.application.ledger import Ledger
from mainspring_registry.application.lineage import Lineages
from mainspring_registry.application.ports import Ports
from mainspring_registry.application.prompts import Prompts
from mainspring_registry.application.releases import Releases
from mainspring_registry.domain.approvals import Actor
from mainspring_registry.domain.imports import ModelImport
from mainspring_registry.domain.making import MAKING_STATES
from mainspring_registry.transport import lineage_mapping, mapping, policies_mapping
from mainspring_svckit.auth import current_principal
from mainspring_svckit.database import Listener
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import unit_to_proto
from mainspring_svckit.names import ModelName, ProjectName
from mainspring_svckit.pagination import Page, next_page_token
from mainspring_svckit.reading import Reader
from mainspring_svckit.watching import follow

REGISTRY = "mainspring.registry.v1.RegistryService"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class UseCases:
    """Everything that the registry does."""

    catalogue: Catalogue
    imports: Imports
    gate: Gate
    releases: Releases
    lineages: Lineages
    prompts: Prompts


class RegistryServicer(pb_grpc.RegistryServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: Ports, cases: UseCases, listener: Listener) -> None:
        self._ports, self._listener = ports, listener
        self._catalogue, self._imports, self._lineages = cases.catalogue, cases.imports, cases.lineages
        self._gate, self._releases = cases.gate, cases.releases
        self._ledger, self._cards = Ledger(ports), Cards(ports)
        self._reader = Reader(ports.transactions)

    async def CreateModelImport(
        self, request: pb.CreateModelImportRequest, context: Any
    ) -> pb.CreateModelImportResponse:
        project = ProjectName.parse(request.parent, "parent").project
        command = mapping.import_from_proto(project, new_id(), request.model_import, _actor().subject)
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

        async for work in follow(self._listener, request.name, read, lambda work: MAKING_STATES.ended(work.state)):
            yield pb.WatchModelImportResponse(model_import=mapping.import_to_proto(work))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        found = await self._reader.get(self._ports.models, "Model", request.name)
        return pb.GetModelResponse(model=mapping.model_to_proto(found.value))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        query = mapping.query_from_proto(request)
        bound = (request.parent, str(query.kind), query.tag, query.text)
        page = Page.of(request.page_size, request.page_token, *bound)
        listed = await self._catalogue.search(request.parent, query, page)
        token = next_page_token(listed.next_key, *bound)
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
        model = await self._catalogue.set_alias(request.name, request.alias, request.model_version, _actor())
        return pb.SetModelAliasResponse(model=mapping.model_to_proto(model))

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Any) -> pb.UpdateModelResponse:
        wish = request.model
        name = str(ModelName.parse(wish.name, "model.name"))
        model = await self._catalogue.describe(name, wish.description, dict(wish.tags))
        return pb.UpdateModelResponse(model=mapping.model_to_proto(model))

    async def UpdateModelVersion(
        self, request: pb.UpdateModelVersionRequest, context: Any
    ) -> pb.UpdateModelVersionResponse:
        version = await self._catalogue.tag_version(request.name, dict(request.tags))
        return pb.UpdateModelVersionResponse(model_version=mapping.version_to_proto(version))

    async def GetModelCard(self, request: pb.GetModelCardRequest, context: Any) -> pb.GetModelCardResponse:
        return pb.GetModelCardResponse(markdown=await self._cards.write(request.name))

    async def DownloadModelFile(
        self, request: pb.DownloadModelFileRequest, context: Any
    ) -> AsyncIterator[pb.DownloadModelFileResponse]:
        project, artifact = await self._catalogue.file(request.name, request.role)
        async for chunk in self._ports.files.stream(project, artifact):
            for begin in range(0, len(chunk), _CHUNK_BYTES):
                yield pb.DownloadModelFileResponse(data=chunk[begin : begin + _CHUNK_BYTES])

    async def UpdateReleasePolicy(
        self, request: pb.UpdateReleasePolicyRequest, context: Any
    ) -> pb.UpdateReleasePolicyResponse:
        stored = await self._gate.put_policy(
            policies_mapping.policy_from_proto(request.release_policy),
            etag=request.release_policy.etag,
            allow_missing=request.allow_missing,
            actor=_actor(),
        )
        return pb.UpdateReleasePolicyResponse(release_policy=policies_mapping.policy_to_proto(stored))

    async def GetReleasePolicy(self, request: pb.GetReleasePolicyRequest, context: Any) -> pb.GetReleasePolicyResponse:
        found = await self._reader.get(self._ports.policies, "ReleasePolicy", request.name)
        return pb.GetReleasePolicyResponse(release_policy=policies_mapping.policy_to_proto(found))

    async def ListReleasePolicies(
        self, request: pb.ListReleasePoliciesRequest, context: Any
    ) -> pb.ListReleasePoliciesResponse:
        listed, token = await self._reader.list(self._ports.policies, request)
        return pb.ListReleasePoliciesResponse(
            release_policies=[policies_mapping.policy_to_proto(item) for item in listed.items], next_page_token=token
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
        release = await self._releases.create(model, request.model_version, _actor())
        return pb.CreateReleaseResponse(release=mapping.release_to_proto(release))

    async def GetRelease(self, request: pb.GetReleaseRequest, context: Any) -> pb.GetReleaseResponse:
        found = await self._reader.get(self._ports.releases, "Release", request.name)
        return pb.GetReleaseResponse(release=mapping.release_to_proto(found.value))

    async def GetServedUnits(self, request: pb.GetServedUnitsRequest, context: Any) -> pb.GetServedUnitsResponse:
        units = await self._gate.units(request.name)
        return pb.GetServedUnitsResponse(
            next=unit_to_proto(units.next),
            active=unit_to_proto(units.active),
            active_model_version=units.active_model_version,
        )

    async def ListReleases(self, request: pb.ListReleasesRequest, context: Any) -> pb.ListReleasesResponse:
        listed, token = await self._reader.list(self._ports.releases, request)
        return pb.ListReleasesResponse(
            releases=[mapping.release_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def RevokeRelease(self, request: pb.RevokeReleaseRequest, context: Any) -> pb.RevokeReleaseResponse:
        release = await self._releases.revoke(request.name, request.reason, _actor())
        return pb.RevokeReleaseResponse(release=mapping.release_to_proto(release))

    async def CheckRelease(self, request: pb.CheckReleaseRequest, context: Any) -> pb.CheckReleaseResponse:
        return mapping.judgement_to_proto(await self._gate.check(request.name, _actor()))

    async def CreateApproval(self, request: pb.CreateApprovalRequest, context: Any) -> pb.CreateApprovalResponse:
        ModelName.parse(request.parent, "parent")
        if not request.model_version.startswith(f"{request.parent}/"):
            message = f"{request.model_version} is not a version of {request.parent}"
            raise InvalidInput(message, reason="MODEL_DIFFERS")
        approval, release = await self._gate.approve(
            new_id(), request.model_version, request.manifest_sha256, request.comment, _actor()
        )
        return pb.CreateApprovalResponse(
            approval=mapping.approval_to_proto(approval),
            release=mapping.release_to_proto(release) if release is not None else None,
        )

    async def ListApprovals(self, request: pb.ListApprovalsRequest, context: Any) -> pb.ListApprovalsResponse:
        listed, token = await self._reader.list(self._ports.approvals, request)
        return pb.ListApprovalsResponse(
            approvals=[mapping.approval_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def ListHistory(self, request: pb.ListHistoryRequest, context: Any) -> pb.ListHistoryResponse:
        listed, token = await self._reader.list(self._ports.history, request)
        return pb.ListHistoryResponse(
            entries=[mapping.entry_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def VerifyHistory(self, request: pb.VerifyHistoryRequest, context: Any) -> pb.VerifyHistoryResponse:
        chain = await self._ledger.verify(request.name)
        return pb.VerifyHistoryResponse(
            intact=not chain.problems, entries=chain.entries, head_sha256=chain.head, problems=chain.problems[:100]
        )

    async def GetCycle(self, request: pb.GetCycleRequest, context: Any) -> pb.GetCycleResponse:
        found = await self._reader.get(self._ports.cycles, "Cycle", request.name)
        return pb.GetCycleResponse(cycle=mapping.cycle_to_proto(found.value))

    async def ListCycles(self, request: pb.ListCyclesRequest, context: Any) -> pb.ListCyclesResponse:
        listed, token = await self._reader.list(self._ports.cycles, request)
        return pb.ListCyclesResponse(
            cycles=[mapping.cycle_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def GetLineage(self, request: pb.GetLineageRequest, context: Any) -> pb.GetLineageResponse:
        wanted = request.HasField("rows")
        if wanted:
            current_principal.get().require("contributor")
        direction = lineage_mapping.direction_from_proto(request.direction)
        walk = await self._lineages.walk(request.name, direction, request.max_hops)
        data = await self._lineages.show(walk, lineage_mapping.rows_from_proto(request.rows)) if wanted else []
        return lineage_mapping.walk_to_proto(walk, data)

    async def TraceData(self, request: pb.TraceDataRequest, context: Any) -> AsyncIterator[pb.TraceDataResponse]:
        project = ProjectName.parse(request.parent, "parent").project
        sought = lineage_mapping.sought_from_proto(request.selector)
        async with aclosing(self._lineages.trace(project, sought)) as states:
            async for state in states:
                yield lineage_mapping.trace_to_proto(state)


def _actor() -> Actor:
    """Who calls."""
    principal = current_principal.get()
    return Actor(principal.subject, principal.roles)
