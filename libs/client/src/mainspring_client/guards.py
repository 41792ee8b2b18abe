"""Guard policies as versioned artifacts."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mainspring.registry.v1 import guard_policy_pb2, guard_policy_service_pb2_grpc
from mainspring.registry.v1 import guard_policy_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName


class Guards(Area):
    """Client of the registry's guard policies; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = guard_policy_service_pb2_grpc.GuardPolicyServiceStub(connection.channel("registry"))

    async def write(
        self, policy: str, version: guard_policy_pb2.GuardPolicyVersion
    ) -> guard_policy_pb2.GuardPolicyVersion:
        """Writes a version; the newest one's own rules again give that version."""
        request = pb.CreateGuardPolicyVersionRequest(parent=policy, guard_policy_version=version, request_id=new_id())
        kind = pb.CreateGuardPolicyVersionResponse
        return (await self._unary(self.stub.CreateGuardPolicyVersion, request, kind)).guard_policy_version

    async def version(self, name: str) -> guard_policy_pb2.GuardPolicyVersion:
        """A version, by number (`.../versions/3`) or by label (`...@production`)."""
        request, kind = pb.GetGuardPolicyVersionRequest(name=name), pb.GetGuardPolicyVersionResponse
        return (await self._unary(self.stub.GetGuardPolicyVersion, request, kind)).guard_policy_version

    def policies(self, project: str) -> AsyncIterator[guard_policy_pb2.GuardPolicy]:
        """A project's guard policies by name."""
        request = pb.ListGuardPoliciesRequest(parent=str(ProjectName(project)))
        return self._pages(
            self.stub.ListGuardPolicies, request, pb.ListGuardPoliciesResponse, lambda r: r.guard_policies
        )

    async def label(self, guard_policy_version: str, label: str) -> guard_policy_pb2.GuardPolicy:
        """Points a label at a version."""
        request = pb.SetGuardPolicyLabelRequest(
            name=guard_policy_version.rsplit("/versions/", 1)[0],
            label=label,
            guard_policy_version=guard_policy_version,
            request_id=new_id(),
        )
        return (await self._unary(self.stub.SetGuardPolicyLabel, request, pb.SetGuardPolicyLabelResponse)).guard_policy
