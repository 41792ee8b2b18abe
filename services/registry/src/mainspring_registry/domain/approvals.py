"""People's word that a version may be released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mainspring_registry.domain.catalogue import ModelVersion
from mainspring_registry.domain.gate import RuleResult
from mainspring_registry.domain.policies import ApprovalRule, ApproverRole
from mainspring_svckit.errors import PreconditionFailed

_COUNTS_AS = {
    ApproverRole.ADMIN: {"admin"},
    ApproverRole.RELEASER: {"releaser", "admin"},
}


@dataclass(frozen=True)
class Actor:
    """Who does something.

    Attributes:
        subject: The caller, as his token names him; `gate` and `inference` are machines.
        roles: Roles that the token holds.
    """

    subject: str
    roles: frozenset[str] = frozenset()


GATE = Actor("gate")
INFERENCE = Actor("inference")


@dataclass(frozen=True)
class Approval:
    """One person's approval of exactly these files; it never changes."""

    name: str
    model: str
    model_version: str
    manifest_sha256: str
    approver: str
    roles: tuple[str, ...]
    comment: str
    create_time: datetime


def check_approver(version: ModelVersion, manifest_sha256: str, actor: Actor) -> None:
    """Raises `PreconditionFailed` when the caller's word cannot count for this version."""
    if "service" in actor.roles:
        raise PreconditionFailed("APPROVER_IS_SERVICE", "people approve, services do not; use a token of your own")
    if version.author and version.author == actor.subject:
        message = f"{actor.subject} made {version.name}; somebody else must approve it"
        raise PreconditionFailed("APPROVER_IS_AUTHOR", message, {"modelVersion": version.name})
    if manifest_sha256 != version.manifest.sha256:
        message = f"the manifest of {version.name} is {version.manifest.sha256}; look at it again and approve that"
        raise PreconditionFailed("MANIFEST_DIFFERS", message, {"sha256": version.manifest.sha256})


def judge_approvals(
    rules: Sequence[ApprovalRule], approvals: Sequence[Approval], version: ModelVersion, releaser: Actor
) -> tuple[tuple[RuleResult, ...], tuple[Approval, ...]]:
    """Whether enough people approved, and whose word counted.

    Each approval counts once, the rarer role first; the one who releases does not count as his own approver.
    """
    open_to_use = [
        approval
        for approval in sorted(approvals, key=lambda approval: (approval.create_time, approval.name))
        if approval.manifest_sha256 == version.manifest.sha256
        and approval.model_version == version.name
        and approval.approver not in {version.author, releaser.subject}
    ]
    results: list[RuleResult] = []
    used: list[Approval] = []
    for rule in sorted(rules, key=lambda rule: rule.role is ApproverRole.RELEASER):
        fitting = [approval for approval in open_to_use if _COUNTS_AS[rule.role] & set(approval.roles)][: rule.count]
        open_to_use = [approval for approval in open_to_use if approval not in fitting]
        used += fitting
        names = ", ".join(approval.approver for approval in fitting) or "nobody"
        results.append(
            RuleResult(
                f"approvals:{rule.role.value.lower()}",
                len(fitting) >= rule.count,
                f"{names} approved, {rule.count} of role {rule.role.value.lower()} needed",
            )
        )
    return tuple(results), tuple(used)
