"""`mainspring.registry.v1.GuardPolicyService`."""

from __future__ import annotations

from typing import Any

from mainspring.registry.v1 import guard_policy_service_pb2 as pb
from mainspring.registry.v1 import guard_policy_service_pb2_grpc as pb_grpc
from mainspring_registry.application.guards import Guards
from mainspring_registry.application.ports import Ports
from mainspring_registry.transport import guards_mapping as mapping
from mainspring_svckit.auth import current_principal
from mainspring_svckit.mapping import guard_rules_from_proto
from mainspring_svckit.reading import Reader

NAME = "mainspring.registry.v1.GuardPolicyService"


class GuardPolicyServicer(pb_grpc.GuardPolicyServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: Ports, guards: Guards) -> None:
        self._ports, self._guards = ports, guards
        self._reader = Reader(ports.transactions)

    async def CreateGuardPolicyVersion(
        self, request: pb.CreateGuardPolicyVersionRequest, context: Any
    ) -> pb.CreateGuardPolicyVersionResponse:
        wish, author = request.guard_policy_version, current_principal.get().subject
        version = await self._guards.create(request.parent, guard_rules_from_proto(wish.rules), wish.comment, author)
        return pb.CreateGuardPolicyVersionResponse(guard_policy_version=mapping.version_to_proto(version))

    async def GetGuardPolicyVersion(
        self, request: pb.GetGuardPolicyVersionRequest, context: Any
    ) -> pb.GetGuardPolicyVersionResponse:
        version = await self._guards.version(request.name)
        return pb.GetGuardPolicyVersionResponse(guard_policy_version=mapping.version_to_proto(version))

    async def ListGuardPolicyVersions(
        self, request: pb.ListGuardPolicyVersionsRequest, context: Any
    ) -> pb.ListGuardPolicyVersionsResponse:
        listed, token = await self._reader.list(self._ports.guard_versions, request)
        return pb.ListGuardPolicyVersionsResponse(
            guard_policy_versions=[mapping.version_to_proto(item.value) for item in listed.items],
            next_page_token=token,
        )

    async def ListGuardPolicies(
        self, request: pb.ListGuardPoliciesRequest, context: Any
    ) -> pb.ListGuardPoliciesResponse:
        listed, token = await self._reader.list(self._ports.guards, request)
        return pb.ListGuardPoliciesResponse(
            guard_policies=[mapping.policy_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def SetGuardPolicyLabel(
        self, request: pb.SetGuardPolicyLabelRequest, context: Any
    ) -> pb.SetGuardPolicyLabelResponse:
        policy = await self._guards.set_label(request.name, request.label, request.guard_policy_version)
        return pb.SetGuardPolicyLabelResponse(guard_policy=mapping.policy_to_proto(policy))
