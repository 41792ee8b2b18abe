"""Models, releases, turns of the loop."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from mainspring.data.v1 import erasure_pb2
from mainspring.registry.v1 import lineage_pb2, model_pb2, registry_service_pb2_grpc, release_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName


class Registry(Area):
    """Client of the registry; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = registry_service_pb2_grpc.RegistryServiceStub(connection.channel("registry"))

    async def import_model(self, wish: model_pb2.ModelImport, *, request_id: str = "") -> model_pb2.ModelImport:
        """Asks for a foundation or embedding model; returns at once, follow it with `watch_import`."""
        request = pb.CreateModelImportRequest(
            parent="/".join(wish.model.split("/")[:2]), model_import=wish, request_id=request_id or new_id()
        )
        return (await self._unary(self.stub.CreateModelImport, request, pb.CreateModelImportResponse)).model_import

    async def watch_import(self, name: str) -> AsyncIterator[model_pb2.ModelImport]:
        """The import now and after each change, until it has ended."""
        request = pb.WatchModelImportRequest(name=name)
        async for response in self._watch(self.stub.WatchModelImport, request, pb.WatchModelImportResponse):
            yield response.model_import

    def models(self, project: str) -> AsyncIterator[model_pb2.Model]:
        """A project's models by name."""
        request = pb.ListModelsRequest(parent=str(ProjectName(project)))
        return self._pages(self.stub.ListModels, request, pb.ListModelsResponse, lambda r: r.models)

    async def model(self, name: str) -> model_pb2.Model:
        """A model."""
        return (await self._unary(self.stub.GetModel, pb.GetModelRequest(name=name), pb.GetModelResponse)).model

    def versions(self, model: str) -> AsyncIterator[model_pb2.ModelVersion]:
        """A model's versions, newest first."""
        request = pb.ListModelVersionsRequest(parent=model)
        return self._pages(
            self.stub.ListModelVersions, request, pb.ListModelVersionsResponse, lambda r: r.model_versions
        )

    async def version(self, name: str) -> model_pb2.ModelVersion:
        """A version, by number (`.../versions/3`) or by alias (`...@champion`)."""
        request = pb.GetModelVersionRequest(name=name)
        return (await self._unary(self.stub.GetModelVersion, request, pb.GetModelVersionResponse)).model_version

    def releases(self, model: str) -> AsyncIterator[release_pb2.Release]:
        """A model's releases, newest first."""
        request = pb.ListReleasesRequest(parent=model)
        return self._pages(self.stub.ListReleases, request, pb.ListReleasesResponse, lambda r: r.releases)

    def policies(self, project: str) -> AsyncIterator[release_pb2.ReleasePolicy]:
        """A project's release policies by name."""
        request = pb.ListReleasePoliciesRequest(parent=str(ProjectName(project)))
        return self._pages(
            self.stub.ListReleasePolicies, request, pb.ListReleasePoliciesResponse, lambda r: r.release_policies
        )

    def decisions(self, model: str) -> AsyncIterator[release_pb2.GateDecision]:
        """What the gate said of a model's versions, newest first."""
        request = pb.ListGateDecisionsRequest(parent=model)
        return self._pages(
            self.stub.ListGateDecisions, request, pb.ListGateDecisionsResponse, lambda r: r.gate_decisions
        )

    async def release(self, model_version: str) -> release_pb2.Release:
        """Releases a version by hand, on the evidence that the gate has allowed.

        Raises:
            PreconditionFailed: RELEASE_NOT_ALLOWED.
        """
        request = pb.CreateReleaseRequest(
            parent=model_version.rsplit("/versions/", 1)[0], model_version=model_version, request_id=new_id()
        )
        return (await self._unary(self.stub.CreateRelease, request, pb.CreateReleaseResponse)).release

    async def revoke_release(self, name: str, reason: str) -> release_pb2.Release:
        """Takes an active release back; the one before becomes active again."""
        request = pb.RevokeReleaseRequest(name=name, reason=reason, request_id=new_id())
        return (await self._unary(self.stub.RevokeRelease, request, pb.RevokeReleaseResponse)).release

    async def check_release(self, model_version: str) -> pb.CheckReleaseResponse:
        """What the gate would say of a version now."""
        request = pb.CheckReleaseRequest(name=model_version)
        return await self._unary(self.stub.CheckRelease, request, pb.CheckReleaseResponse)

    async def approve(self, version: model_pb2.ModelVersion, comment: str = "") -> pb.CreateApprovalResponse:
        """Approves exactly the files of a version that the caller has looked at; may release it.

        Raises:
            PreconditionFailed: APPROVER_IS_AUTHOR, APPROVER_IS_SERVICE, MANIFEST_DIFFERS.
        """
        request = pb.CreateApprovalRequest(
            parent=version.name.rsplit("/versions/", 1)[0],
            model_version=version.name,
            manifest_sha256=version.manifest.sha256,
            comment=comment,
            request_id=new_id(),
        )
        return await self._unary(self.stub.CreateApproval, request, pb.CreateApprovalResponse)

    def approvals(self, model: str) -> AsyncIterator[release_pb2.Approval]:
        """Approvals of a model's versions, newest first."""
        request = pb.ListApprovalsRequest(parent=model)
        return self._pages(self.stub.ListApprovals, request, pb.ListApprovalsResponse, lambda r: r.approvals)

    def history(self, model: str) -> AsyncIterator[release_pb2.HistoryEntry]:
        """What happened to a model, oldest first."""
        request = pb.ListHistoryRequest(parent=model)
        return self._pages(self.stub.ListHistory, request, pb.ListHistoryResponse, lambda r: r.entries)

    async def verify_history(self, model: str) -> pb.VerifyHistoryResponse:
        """Whether a model's history is as it was written."""
        request = pb.VerifyHistoryRequest(name=model)
        return await self._unary(self.stub.VerifyHistory, request, pb.VerifyHistoryResponse)

    async def card(self, model_version: str) -> str:
        """A version's model card, in Markdown."""
        request = pb.GetModelCardRequest(name=model_version)
        return (await self._unary(self.stub.GetModelCard, request, pb.GetModelCardResponse)).markdown

    async def tag(self, model_version: str, tags: Mapping[str, str]) -> model_pb2.ModelVersion:
        """Writes a version's tags; those that are not given are gone."""
        request = pb.UpdateModelVersionRequest(name=model_version, tags=tags, request_id=new_id())
        return (await self._unary(self.stub.UpdateModelVersion, request, pb.UpdateModelVersionResponse)).model_version

    async def download(self, name: str, role: str, target: Path) -> str:
        """Fetches a file of a version, or a signed manifest (`model.sig`, `release.sig`); returns its SHA-256."""
        request, digest = pb.DownloadModelFileRequest(name=name, role=role), hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("wb") as file:
            async for part in self._connection.caller.stream(
                self.stub.DownloadModelFile, request, pb.DownloadModelFileResponse
            ):
                digest.update(part.data)
                file.write(part.data)
        partial.replace(target)
        return digest.hexdigest()

    async def policy_of(self, model: str) -> release_pb2.ReleasePolicy | None:
        """The release policy that guards a model; None without one."""
        request = pb.ListReleasePoliciesRequest(parent="/".join(model.split("/")[:2]))
        kind = pb.ListReleasePoliciesResponse
        async for policy in self._pages(self.stub.ListReleasePolicies, request, kind, lambda r: r.release_policies):
            if policy.model == model:
                return policy
        return None

    async def lineage(
        self,
        name: str,
        *,
        downstream: bool = False,
        max_hops: int = 0,
        rows: lineage_pb2.LineageRows | None = None,
    ) -> pb.GetLineageResponse:
        """What a resource was made from, or what was made from it.

        Args:
            name: An answer, release, gate decision, model version or alias, run, recipe, dataset version, source,
                ingestion or import.
            downstream: Whether to walk to what was made from it.
            max_hops: Most edges to any node; 0 is the registry's default.
            rows: Which rows of the data to show with their sources; None shows none. Needs the role contributor.

        Raises:
            NotFound: The registry has not heard of it.
        """
        kind = pb.GetLineageRequest
        direction = kind.DIRECTION_DOWNSTREAM if downstream else kind.DIRECTION_UPSTREAM
        request = kind(name=name, direction=direction, max_hops=max_hops, rows=rows)
        return await self._unary(self.stub.GetLineage, request, pb.GetLineageResponse)

    async def trace(self, project: str, selector: erasure_pb2.ErasureSelector) -> AsyncIterator[pb.TraceDataResponse]:
        """From rows, a person or a document to everything that saw them: the search as it goes on, at last the trace.

        Raises:
            PreconditionFailed: The search failed, for its own reason.
            Unavailable: The connection broke; to ask again is to search anew.
        """
        request = pb.TraceDataRequest(parent=str(ProjectName(project)), selector=selector)
        async for response in self._connection.caller.stream(self.stub.TraceData, request, pb.TraceDataResponse):
            yield response

    def cycles(self, project: str) -> AsyncIterator[release_pb2.Cycle]:
        """A project's turns of the loop, newest first."""
        request = pb.ListCyclesRequest(parent=str(ProjectName(project)), page_size=20)
        return self._pages(self.stub.ListCycles, request, pb.ListCyclesResponse, lambda r: r.cycles)

    async def cycle(self, name: str) -> release_pb2.Cycle:
        """One turn of the loop with its steps.

        Raises:
            NotFound: The registry has not heard of it yet.
        """
        return (await self._unary(self.stub.GetCycle, pb.GetCycleRequest(name=name), pb.GetCycleResponse)).cycle
