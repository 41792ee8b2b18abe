"""A folder of model files, checked against its signed manifest without asking anybody."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mainspring_proof.bundles import MAX_BYTES, verify
from mainspring_proof.keys import TrustedKeys
from mainspring_proof.statements import (
    RELEASE_FILE,
    SIGNATURE_FILE,
    SignedRelease,
    SignedVersion,
    read_release,
    read_version,
)
from mainspring_svckit.errors import PreconditionFailed

CARD_FILE = "README.md"
"""The model card; it is written anew when the catalogue learns more, so nobody signs it."""


@dataclass(frozen=True)
class VerifiedFolder:
    """What a folder holds, proved.

    Attributes:
        version: The version whose files they are.
        release: The release under which it may serve; None when the folder has no release's manifest.
        unsigned: Paths of files that the manifest does not name: the model card, if there is one.
    """

    version: SignedVersion
    release: SignedRelease | None
    unsigned: tuple[str, ...]


def verify_folder(folder: Path, trusted: TrustedKeys) -> VerifiedFolder:
    """Checks that a folder holds exactly what was signed, and a model card at most.

    Raises:
        PreconditionFailed: PROOF_MISSING, PROOF_INVALID or PROOF_UNTRUSTED for the manifest itself; FILES_DIFFER, a
            file is missing or holds other bytes; FILES_UNSIGNED, there are more files, which whoever opens the folder
            might load; RELEASE_DIFFERS, the release's manifest is about another version.
    """
    version = read_version(verify(_read(folder / SIGNATURE_FILE), trusted))
    wrong = [path for path, digest in version.exported.items() if _digest(folder / path) != digest]
    if wrong:
        message = f"not as signed: {', '.join(sorted(wrong)[:20])}"
        raise PreconditionFailed("FILES_DIFFER", message, {"files": str(len(wrong))})
    release = None
    if (folder / RELEASE_FILE).exists():
        release = read_release(verify(_read(folder / RELEASE_FILE), trusted))
        if (release.model_version, release.manifest_sha256) != (version.name, version.manifest_sha256):
            message = f"the release's manifest is about {release.model_version}, the files are of {version.name}"
            raise PreconditionFailed("RELEASE_DIFFERS", message)
    signed = {*version.exported, SIGNATURE_FILE, RELEASE_FILE}
    there = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    unsigned = sorted({path.relative_to(folder).as_posix() for path in there} - signed)
    if more := [path for path in unsigned if path != CARD_FILE]:
        message = f"nobody signed {', '.join(more[:20])}; remove what does not belong there, or export the version anew"
        raise PreconditionFailed("FILES_UNSIGNED", message, {"files": str(len(more))})
    return VerifiedFolder(version, release, tuple(unsigned))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as err:
        message = f"there is no signed manifest: {path} cannot be read ({err.strerror})"
        raise PreconditionFailed("PROOF_MISSING", message) from err


def _digest(path: Path) -> str:
    """SHA-256 of a plain file; empty for anything else, links included."""
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
