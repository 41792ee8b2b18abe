"""What the demo can prove of the model that serves: both signed manifests, verified here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mainspring_client.registry import Registry
from mainspring_proof import bundles, statements
from mainspring_proof.keys import TrustedKeys
from mainspring_proof.statements import RELEASE_FILE, SIGNATURE_FILE


async def prove(registry: Registry, model: str, keys: Path) -> dict[str, Any]:
    """What was signed of the active release and its version.

    Raises:
        PreconditionFailed: The installation's own key did not sign it so.
    """
    active = (await registry.model(model)).active_release
    if not active:
        return {}
    trusted = TrustedKeys.from_file(keys)
    with tempfile.TemporaryDirectory(prefix="mainspring-proof-") as scratch:
        await registry.download(active, RELEASE_FILE, Path(scratch) / RELEASE_FILE)
        release = statements.read_release(bundles.verify((Path(scratch) / RELEASE_FILE).read_bytes(), trusted))
        await registry.download(release.model_version, SIGNATURE_FILE, Path(scratch) / SIGNATURE_FILE)
        version = statements.read_version(bundles.verify((Path(scratch) / SIGNATURE_FILE).read_bytes(), trusted))
    history = await registry.verify_history(model)
    return {
        "release": release.name,
        "model_version": version.name,
        "manifest_sha256": version.manifest_sha256,
        "same_manifest": version.manifest_sha256 == release.manifest_sha256,
        "key": version.key_id,
        "files": len(version.files),
        "dataset_root_sha256": version.manifest["lineage"]["dataset_root_sha256"],
        "base_manifest_sha256": version.manifest["base_manifest_sha256"],
        "recipe_sha256": version.manifest["lineage"]["recipe_sha256"],
        "decision": release.details["decision"]["name"],
        "released_by": release.details["released_by"],
        "history": {"entries": history.entries, "intact": history.intact},
    }
