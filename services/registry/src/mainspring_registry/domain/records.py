"""What is written down of a release for ever: the record that is signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from mainspring_registry.domain.approvals import Approval
from mainspring_registry.domain.catalogue import ModelVersion
from mainspring_registry.domain.digests import digest_of
from mainspring_registry.domain.gate import GateDecision
from mainspring_registry.domain.policies import ReleasePolicy
from mainspring_registry.domain.releases import Release


@dataclass(frozen=True)
class ReleaseRecord:
    """What is signed of a release.

    Attributes:
        release: Its name.
        model_version: Version that it lets serve.
        manifest_sha256: Manifest of that version.
        policy: Policy that was applied; empty when it is not known any more.
        policy_sha256: Digest of that policy as it stood.
        evidence: Digest of each evaluation's results, by the name of its run.
        time: When it was released.
        details: Decision with its rules, approvals, what was compared, what goes live with the version; JSON values.
    """

    release: str
    model_version: str
    manifest_sha256: str
    policy: str
    policy_sha256: str
    evidence: Mapping[str, str]
    time: datetime
    details: Mapping[str, Any]


def release_record(
    release: Release,
    version: ModelVersion,
    decision: GateDecision,
    policy: ReleasePolicy | None,
    approvals: Sequence[Approval] = (),
    *,
    history_sha256: str = "",
    later: bool = False,
) -> ReleaseRecord:
    """The record of a release.

    Args:
        release: The release.
        version: Its version.
        decision: What allowed it.
        policy: What was applied; None when it is gone.
        approvals: Whose word counted.
        history_sha256: Head of the model's history before the release.
        later: Whether the release was made before there were signatures.
    """
    details = {
        "number": release.number,
        "previous_release": release.previous_release,
        "released_by": release.released_by,
        "cycle": release.cycle,
        "signed_later": later,
        "history_sha256": history_sha256,
        "dataset": {
            "version": version.lineage.dataset_version,
            "root_sha256": version.lineage.dataset_root_sha256,
        },
        "base": version.base_model_version,
        "recipe_sha256": version.lineage.recipe_sha256,
        "author": version.author,
        "unit": asdict(release.unit),
        **({"served_unit": asdict(release.served_unit)} if release.served_unit is not None else {}),
        "baseline": decision.evidence.baseline,
        "decision": {
            "name": decision.name,
            "sha256": digest_of(decision),
            "outcome": decision.outcome.value,
            "rules": [asdict(rule) for rule in decision.rules],
        },
        "approvals": [
            {
                "name": approval.name,
                "approver": approval.approver,
                "roles": list(approval.roles),
                "comment": approval.comment,
                "time": approval.create_time.isoformat(),
            }
            for approval in approvals
        ],
    }
    evidence = (decision.evidence, *decision.further_evidence)
    return ReleaseRecord(
        release=release.name,
        model_version=version.name,
        manifest_sha256=version.manifest.sha256,
        policy=policy.name if policy is not None else "",
        policy_sha256=decision.policy_sha256 or digest_of(policy),
        evidence={one.evaluation_run: digest_of(one) for one in evidence},
        time=release.create_time,
        details=details,
    )
