"""What the artifact store lacks of a version's files (faults.md F10). Joins the ambient transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from mainspring_registry.application.ports import Ports
from mainspring_registry.application.proofs import VERSION_PROOF
from mainspring_registry.domain.catalogue import ModelKind, ModelVersion
from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_svckit.names import project_of
from mainspring_svckit.values import ArtifactRef

_READ_WHOLE_BYTES = 1 << 20
"""Of larger files only the size is looked at; who loads them compares the digest."""


class Files:
    """Looks after files in the artifact store."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def missing(self, project: str, files: Mapping[str, ArtifactRef]) -> list[str]:
        """Roles of files that the store does not hold in their size."""
        held = await asyncio.gather(*(self._ports.files.exists(project, file) for file in files.values()))
        return sorted(role for role, there in zip(files, held, strict=True) if not there)

    async def lost(self, version: ModelVersion) -> list[str]:
        """Files of a version, and of the base of an adapter, that the store does not hold whole.

        Raises:
            Unavailable: The store does not answer.
        """
        versions = [version]
        if version.kind is ModelKind.ADAPTER:
            base = await self._ports.versions.get(version.base_model_version)
            if base is None:
                return [version.base_model_version]
            versions.append(base.value)
        return [f"{role} of {one.name}" for one in versions for role in await self._lost(one)]

    async def _lost(self, version: ModelVersion) -> list[str]:
        project = str(project_of(version.name))
        files = {**version.artifacts, "manifest.json": version.manifest}
        if version.proof is not None:
            files[VERSION_PROOF] = version.proof
        small = {role: file for role, file in files.items() if file.size_bytes <= _READ_WHOLE_BYTES}
        large = {role: file for role, file in files.items() if role not in small}
        whole = await asyncio.gather(*(self._whole(project, file) for file in small.values()))
        damaged = [role for role, intact in zip(small, whole, strict=True) if not intact]
        return sorted([*damaged, *await self.missing(project, large)])

    async def _whole(self, project: str, file: ArtifactRef) -> bool:
        try:
            await self._ports.files.read(project, file)
        except (NotFound, PreconditionFailed):
            return False
        return True
