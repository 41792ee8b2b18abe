"""What the bus has heard of the registry and the database has not: what it was, and how it is made again from what was
signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from mainspring_registry.domain.catalogue import Lineage, ModelKind, ModelVersion, ServingSpec, manifest_bytes
from mainspring_registry.domain.policies import ServingUnit
from mainspring_registry.domain.releases import Release
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import (
    ArtifactRef,
    GuardAction,
    GuardDirection,
    GuardRule,
    Message,
    PersonalDataKind,
    ServedGuard,
    ServedUnit,
)


@dataclass(frozen=True)
class HeardVersion:
    """A version was registered."""

    name: str
    model: str
    kind: ModelKind
    base_model_version: str
    manifest: ArtifactRef
    proof: ArtifactRef | None
    author: str


@dataclass(frozen=True)
class HeardRelease:
    """A version was released."""

    name: str
    model: str
    model_version: str
    gate_decision: str
    proof: ArtifactRef | None


@dataclass(frozen=True)
class HeardRevocation:
    """A release was taken back."""

    name: str
    model: str
    reason: str


@dataclass(frozen=True)
class HeardRefusal:
    """The gate refused a version; `name` is the decision's, or empty when there was nothing to decide on."""

    name: str
    model: str


@dataclass(frozen=True)
class Heard:
    """One event of the registry's own that its database does not know."""

    event_id: str
    event_type: str
    time: datetime
    cycle: str
    sequence: int
    fact: HeardVersion | HeardRelease | HeardRevocation | HeardRefusal


@dataclass(frozen=True)
class SignedManifest:
    """A version's manifest, as a trusted key signed it."""

    name: str
    sha256: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class SignedRelease:
    """A release's record, as a trusted key signed it."""

    name: str
    model_version: str
    manifest_sha256: str
    time: datetime
    details: Mapping[str, Any]


class Outcome(StrEnum):
    """What becomes of what the bus has heard."""

    REBUILT = "REBUILT"
    """It stands in the database again as it was."""
    BURNT = "BURNT"
    """It cannot be made again; its number is never given out a second time."""
    CONFLICT = "CONFLICT"
    """Its number was given out a second time, with other content."""


@dataclass(frozen=True)
class Finding:
    """One event that the database did not know, and what becomes of it."""

    event_id: str
    event_type: str
    time: str
    model: str
    name: str
    outcome: Outcome
    why: str = ""


def version_of(heard: Heard, fact: HeardVersion, signed: SignedManifest, base: ModelVersion | None) -> ModelVersion:
    """The version that was registered. Media types are not in the manifest, and files get the names of their roles.

    Raises:
        PreconditionFailed: PROOF_DIFFERS, the signed manifest is another one than the event's, or about another base.
    """
    body = signed.body
    require_child(fact.model, fact.name)
    if (signed.name, signed.sha256) != (fact.name, fact.manifest.sha256):
        raise _differs(f"the signed manifest is {signed.name}'s, with another digest or name than the bus heard")
    base_sha256 = base.manifest.sha256 if base is not None else ""
    if base_sha256 != body["base_manifest_sha256"]:
        raise _differs(f"its base {fact.base_model_version or 'model'} is not known, or is another one than was signed")
    artifacts = {
        role: ArtifactRef(str(file["sha256"]), int(file["size_bytes"]), "", role.rsplit("/", 1)[-1])
        for role, file in body["artifacts"].items()
    }
    made: dict[str, Any] = {**body["lineage"], "merged_from": tuple(body["lineage"]["merged_from"])}
    version = ModelVersion(
        name=fact.name,
        model=fact.model,
        kind=ModelKind(body["kind"]),
        base_model_version=fact.base_model_version,
        artifacts=artifacts,
        manifest=fact.manifest,
        serving=ServingSpec(**body["serving"]),
        lineage=Lineage(**made),
        licence=str(body["licence"]),
        create_time=heard.time,
        cycle=heard.cycle,
        training_run=str(made["training_run"]),
        proof=fact.proof,
        author=fact.author,
    )
    again = manifest_bytes(
        version.name, version.kind, base_sha256, artifacts, version.serving, version.lineage, version.licence
    )
    if hashlib.sha256(again).hexdigest() != fact.manifest.sha256:
        raise _differs("this release of the registry would write another manifest for it")
    return version


def release_of(fact: HeardRelease, signed: SignedRelease, version: ModelVersion) -> Release:
    """The release that was made, ACTIVE as it was then.

    Raises:
        PreconditionFailed: PROOF_DIFFERS, the signed record is about another release or another version.
    """
    require_child(fact.model, fact.name)
    wanted = (fact.name, fact.model_version, version.manifest.sha256)
    if (signed.name, signed.model_version, signed.manifest_sha256) != wanted:
        raise _differs(f"the signed record is about {signed.name} of {signed.model_version}, or of other files")
    details = signed.details
    served = details.get("served_unit")
    return Release(
        name=fact.name,
        model=fact.model,
        model_version=fact.model_version,
        gate_decision=str(details["decision"]["name"]),
        previous_release=str(details["previous_release"]),
        cycle=str(details["cycle"]),
        create_time=signed.time,
        proof=fact.proof,
        released_by=str(details["released_by"]),
        approvals=tuple(str(approval["name"]) for approval in details["approvals"]),
        unit=ServingUnit(**details["unit"]),
        served_unit=served_unit(served) if served is not None else None,
    )


def require_child(model: str, name: str) -> None:
    """Raises `PreconditionFailed` (PROOF_DIFFERS) unless what an event is about belongs to the model that it names."""
    if not name.startswith(f"{model}/"):
        raise _differs(f"{name} is not of {model}")


def served_unit(unit: Mapping[str, Any]) -> ServedUnit:
    """What was signed to go live with a version."""
    fields: dict[str, Any] = {**unit, "prompt": tuple(Message(**message) for message in unit["prompt"])}
    if unit.get("guard") is not None:
        fields["guard"] = _guard(unit["guard"])
    return ServedUnit(**fields)


def _guard(signed: Mapping[str, Any]) -> ServedGuard:
    rules = tuple(_guard_rule(**rule) for rule in signed["rules"])
    return ServedGuard(str(signed["guard_policy_version"]), str(signed["sha256"]), rules)


def _guard_rule(
    *,
    direction: str,
    action: str,
    texts: Sequence[str],
    expressions: Sequence[str],
    personal_data: Sequence[str],
    **rest: Any,
) -> GuardRule:
    return GuardRule(
        direction=GuardDirection(direction),
        action=GuardAction(action),
        texts=tuple(texts),
        expressions=tuple(expressions),
        personal_data=tuple(PersonalDataKind(kind) for kind in personal_data),
        **rest,
    )


def _differs(why: str) -> PreconditionFailed:
    return PreconditionFailed("PROOF_DIFFERS", why)
