"""Use cases of proof: what the registry answers for is signed, and what is older than signatures is signed later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.approvals import Approval
from mainspring_registry.domain.catalogue import ModelVersion
from mainspring_registry.domain.gate import GateDecision
from mainspring_registry.domain.policies import ReleasePolicy
from mainspring_registry.domain.records import release_record
from mainspring_registry.domain.releases import Release
from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_svckit.names import project_of
from mainspring_svckit.pagination import Page
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef

WORK_KIND = "signatures"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
VERSION_PROOF, RELEASE_PROOF = "model.sig", "release.sig"
"""Under these roles signed manifests are fetched."""
_PAGE = 100


class Proofs:
    """Has manifests signed and keeps them in the artifact store."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def of_version(self, version: ModelVersion, manifest: bytes) -> ArtifactRef:
        """The signed manifest of a version, stored.

        Raises:
            Unavailable: The key or the store cannot be used now.
        """
        return await self._kept(version.name, await self._ports.notary.sign_version(manifest), VERSION_PROOF)

    async def of_release(
        self,
        release: Release,
        version: ModelVersion,
        decision: GateDecision,
        policy: ReleasePolicy | None,
        approvals: Sequence[Approval] = (),
        *,
        history_sha256: str = "",
        later: bool = False,
    ) -> ArtifactRef:
        """The signed manifest of a release, stored.

        Raises:
            Unavailable: The key or the store cannot be used now.
        """
        record = release_record(
            release, version, decision, policy, approvals, history_sha256=history_sha256, later=later
        )
        return await self._kept(release.name, await self._ports.notary.sign_release(record), RELEASE_PROOF)

    async def sign_older(self, lease: Claim) -> list[str]:
        """Signs every version and release that has no signature, a page at a time; safe to repeat.

        Returns:
            Names of what could not be signed, since the store no longer holds its manifest.
        """
        left: list[str] = []
        async with self._ports.transactions.transaction():
            models = [model.name for model in await self._ports.models.all()]
        for model in models:
            after: str | None = ""
            while after is not None:
                async with lease.transaction():
                    listed = await self._ports.versions.list(model, Page(_PAGE, after or None))
                    for item in listed.items:
                        if item.value.proof is None and not await self._sign_version(item.value):
                            left.append(item.value.name)
                after = listed.next_key
            after = ""
            while after is not None:
                async with lease.transaction():
                    found = await self._ports.releases.list(model, Page(_PAGE, after or None))
                    for item in found.items:
                        if item.value.proof is None:
                            await self._sign_release(item.value)
                after = found.next_key
        async with lease.complete():
            return left

    async def _sign_version(self, version: ModelVersion) -> bool:
        try:
            manifest = await self._ports.files.read(str(project_of(version.name)), version.manifest)
        except (NotFound, PreconditionFailed):
            return False
        assert hashlib.sha256(manifest).hexdigest() == version.manifest.sha256
        await self._ports.versions.put(replace(version, proof=await self.of_version(version, manifest)))
        return True

    async def _sign_release(self, release: Release) -> None:
        ports = self._ports
        version = (await require(ports.versions, "ModelVersion", release.model_version)).value
        decision = (await require(ports.decisions, "GateDecision", release.gate_decision)).value
        proof = await self.of_release(release, version, decision, None, later=True)
        await ports.releases.put(replace(release, proof=proof))

    async def _kept(self, name: str, bundle: bytes, filename: str) -> ArtifactRef:
        project = str(project_of(name))
        return await self._ports.files.put_bytes(project, bundle, media_type=MEDIA_TYPE, filename=filename)
