"""What is signed: of a model version its manifest with all its files, of a release the decision that allowed it.

A version's statement is model-signing's (`https://model_signing/signature/v1.0`), which leaves room for fields of
others; ours is `mainspring` and holds the registry's manifest whole. A release's statement is a Verification Summary
Attestation of SLSA (`https://slsa.dev/verification_summary/v1`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from mainspring_proof.bundles import Statement, canonical
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import ModelVersionName

VERSION_PREDICATE = "https://model_signing/signature/v1.0"
RELEASE_PREDICATE = "https://slsa.dev/verification_summary/v1"
VERIFIER = "urn:mainspring:registry"
RELEASE_EXTENSION = "urn:mainspring:release:v1"
SIGNATURE_FILE = "model.sig"
RELEASE_FILE = "release.sig"
_IGNORED = [SIGNATURE_FILE, RELEASE_FILE, ".git", ".gitattributes", ".github", ".gitignore"]
_FOLDERS = ("hf/", "adapter/")


def export_path(role: str) -> str:
    """Where a file of a version stands in an exported folder, by its role: that of Hugging Face's libraries."""
    for folder in _FOLDERS:
        if role.startswith(folder):
            return role.removeprefix(folder)
    return "model.gguf" if role == "gguf" else role


@dataclass(frozen=True)
class SignedVersion:
    """A version as somebody trusted signed it.

    Attributes:
        name: Its resource name.
        manifest: The registry's manifest: files by role, base, lineage, licence, how to serve it.
        manifest_sha256: Digest of the manifest; it identifies the version.
        key_id: Who signed.
    """

    name: str
    manifest: Mapping[str, Any]
    manifest_sha256: str
    key_id: str

    @property
    def files(self) -> Mapping[str, str]:
        """SHA-256 by role."""
        return {role: str(file["sha256"]) for role, file in self.manifest["artifacts"].items()}

    @property
    def exported(self) -> Mapping[str, str]:
        """SHA-256 by path in an exported folder."""
        return {export_path(role): digest for role, digest in self.files.items()}


def version_statement(manifest: bytes) -> Statement:
    """What is signed of a version with this manifest."""
    body: dict[str, Any] = json.loads(manifest)
    name = ModelVersionName.parse(body["name"])
    files = {export_path(role): file["sha256"] for role, file in body["artifacts"].items()}
    resources = [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in sorted(files)]
    predicate = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": _IGNORED,
        },
        "resources": resources,
        "mainspring": {"manifest": body},
    }
    return Statement(f"{name.model}-{name.version}", _root(predicate), VERSION_PREDICATE, predicate)


def read_version(statement: Statement) -> SignedVersion:
    """A version's statement, checked to agree with itself.

    Raises:
        PreconditionFailed: PROOF_INVALID, it is about something else or its parts contradict each other.
    """
    try:
        if statement.predicate_type != VERSION_PREDICATE:
            raise ValueError(f"it is of the kind {statement.predicate_type}, not {VERSION_PREDICATE}")
        manifest = cast("dict[str, Any]", statement.predicate["mainspring"]["manifest"])
        encoded = canonical(manifest)
        again = version_statement(encoded)
        if odd := [path for path in map(export_path, manifest["artifacts"]) if not _plain(path)]:
            raise ValueError(f"{odd[0]!r} leads out of the folder")
        if (again.sha256, again.predicate["resources"]) != (statement.sha256, statement.predicate["resources"]):
            raise ValueError("its list of files and its manifest differ")
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        message = f"this is no manifest of a model version: {type(err).__name__}: {str(err)[:200]}"
        raise PreconditionFailed("PROOF_INVALID", message) from err
    return SignedVersion(manifest["name"], manifest, hashlib.sha256(encoded).hexdigest(), statement.key_id)


@dataclass(frozen=True)
class SignedRelease:
    """A release as somebody trusted signed it.

    Attributes:
        name: Its resource name.
        model_version: Version that it lets serve.
        manifest_sha256: Manifest of that version.
        details: Policy, decision, evidence, approvals, and the place in the model's history.
        key_id: Who signed.
    """

    name: str
    model_version: str
    manifest_sha256: str
    details: Mapping[str, Any]
    key_id: str


def release_statement(
    *,
    release: str,
    model_version: str,
    manifest_sha256: str,
    policy: str,
    policy_sha256: str,
    evidence: Mapping[str, str],
    time: datetime,
    details: Mapping[str, Any],
) -> Statement:
    """What is signed of a release.

    Args:
        release: Its name.
        model_version: Version that it lets serve.
        manifest_sha256: Manifest of that version.
        policy: Name of the policy that was applied, or empty.
        policy_sha256: Digest of that policy as it stood.
        evidence: SHA-256 by the name of the evaluation run.
        time: When it was released.
        details: What else belongs to it; JSON values.
    """
    predicate = {
        "verifier": {"id": VERIFIER},
        "timeVerified": time.isoformat().replace("+00:00", "Z"),
        "resourceUri": model_version,
        "policy": {"uri": policy, "digest": {"sha256": policy_sha256}},
        "inputAttestations": [{"uri": run, "digest": {"sha256": evidence[run]}} for run in sorted(evidence)],
        "verificationResult": "PASSED",
        "verifiedLevels": [],
        RELEASE_EXTENSION: {"release": release, **details},
    }
    return Statement(model_version, manifest_sha256, RELEASE_PREDICATE, predicate)


def read_release(statement: Statement) -> SignedRelease:
    """A release's statement.

    Raises:
        PreconditionFailed: PROOF_INVALID, it is about something else or says that the version did not pass.
    """
    try:
        if statement.predicate_type != RELEASE_PREDICATE:
            raise ValueError(f"it is of the kind {statement.predicate_type}, not {RELEASE_PREDICATE}")
        if statement.predicate["verificationResult"] != "PASSED":
            raise ValueError("it says that the version did not pass")
        details = cast("dict[str, Any]", statement.predicate[RELEASE_EXTENSION])
        return SignedRelease(str(details["release"]), statement.subject, statement.sha256, details, statement.key_id)
    except (ValueError, KeyError, TypeError) as err:
        message = f"this is no manifest of a release: {type(err).__name__}: {str(err)[:200]}"
        raise PreconditionFailed("PROOF_INVALID", message) from err


def _plain(path: str) -> bool:
    return all(part not in {"", ".", ".."} for part in path.split("/")) and "\\" not in path and "\0" not in path


def _root(predicate: Mapping[str, Any]) -> str:
    """SHA-256 over the files' digests in the order of their paths, as model-signing computes it."""
    hasher = hashlib.sha256()
    for resource in predicate["resources"]:
        hasher.update(bytes.fromhex(resource["digest"]))
    return hasher.hexdigest()
