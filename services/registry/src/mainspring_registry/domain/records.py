"""What is written down of a release for ever: the record that is signed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from mainspring_registry.domain.catalogue import ModelVersion
from mainspring_registry.domain.gate import GateDecision, ReleasePolicy
from mainspring_registry.domain.releases import Release


def digest_of(value: Any) -> str:
    """SHA-256 of a dataclass as canonical JSON; empty for None."""
    if value is None:
        return ""
    body = json.dumps(asdict(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.sha256(body.encode()).hexdigest()


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
        details: Decision with its rules, what was compared, and whether it was signed only later; JSON values.
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
    *,
    later: bool = False,
) -> ReleaseRecord:
    """The record of a release.

    Args:
        release: The release.
        version: Its version.
        decision: What allowed it.
        policy: What was applied; None when it is gone.
        later: Whether the release was made before there were signatures.
    """
    details = {
        "number": release.number,
        "previous_release": release.previous_release,
        "cycle": release.cycle,
        "signed_later": later,
        "dataset": {
            "version": version.lineage.dataset_version,
            "root_sha256": version.lineage.dataset_root_sha256,
        },
        "base": version.base_model_version,
        "recipe_sha256": version.lineage.recipe_sha256,
        "baseline": decision.evidence.baseline,
        "decision": {
            "name": decision.name,
            "sha256": digest_of(decision),
            "outcome": decision.outcome.value,
            "rules": [asdict(rule) for rule in decision.rules],
        },
    }
    return ReleaseRecord(
        release=release.name,
        model_version=version.name,
        manifest_sha256=version.manifest.sha256,
        policy=policy.name if policy is not None else "",
        policy_sha256=digest_of(policy),
        evidence={decision.evidence.evaluation_run: digest_of(decision.evidence)},
        time=release.create_time,
        details=details,
    )


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no canonical form")
