"""Between guard policies and `mainspring.registry.v1`; pure functions."""

from __future__ import annotations

from mainspring.registry.v1 import guard_policy_pb2
from mainspring_registry.domain.guards import GuardPolicy, GuardPolicyVersion
from mainspring_svckit.mapping import guard_rules_to_proto, time_to_proto


def version_to_proto(version: GuardPolicyVersion) -> guard_policy_pb2.GuardPolicyVersion:
    """Prints a version."""
    return guard_policy_pb2.GuardPolicyVersion(
        name=version.name,
        rules=guard_rules_to_proto(version.rules),
        comment=version.comment,
        author=version.author,
        sha256=version.served.sha256,
        create_time=time_to_proto(version.create_time),
    )


def policy_to_proto(policy: GuardPolicy) -> guard_policy_pb2.GuardPolicy:
    """Prints a policy."""
    return guard_policy_pb2.GuardPolicy(
        name=policy.name,
        latest_version=policy.newest,
        labels=policy.labels,
        create_time=time_to_proto(policy.create_time),
    )
