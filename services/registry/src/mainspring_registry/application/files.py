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
"""Larger files are compared beforehand, as far as there was time; at the decision only their size is looked at."""


class Files:
    """Looks after files in the artifact store."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def missing(self, project: str, files: Mapping[str, ArtifactRef]) -> list[str]:
        """Roles of files that the store does not hold in their size."""
        held = await asyncio.gather(*(self._ports.files.exists(project, file) for file in files.values()))
        return sorted(role for role, there in zip(files, held, strict=True) if not there)

    async def look(self, version: ModelVersion) -> None:
        """Has the large files compared that `lost` will be asked about. It takes a while, so no lock may be held."""
        await asyncio.gather(*(self._look(one) for one in await self._needed(version)))

    async def lost(self, version: ModelVersion) -> list[str]:
        """Files of a version, and of the base of an adapter, that the store does not hold whole.

        Raises:
            Unavailable: The store does not answer.
        """
        needed = await self._needed(version)
        if version.kind is ModelKind.ADAPTER and len(needed) == 1:
            return [version.base_model_version]
        return [f"{role} of {one.name}" for one in needed for role in await self._lost(one)]

    async def _look(self, version: ModelVersion) -> None:
        large = [file for file in version.artifacts.values() if file.size_bytes > _READ_WHOLE_BYTES]
        await self._ports.comparisons.look(str(project_of(version.name)), large)

    async def _needed(self, version: ModelVersion) -> list[ModelVersion]:
        """The version, and the base of an adapter where the catalogue has it."""
        base = await self._ports.versions.get(version.base_model_version) if version.kind is ModelKind.ADAPTER else None
        return [version] if base is None else [version, base.value]

    async def _lost(self, version: ModelVersion) -> list[str]:
        project = str(project_of(version.name))
        files = {**version.artifacts, "manifest.json": version.manifest}
        if version.proof is not None:
            files[VERSION_PROOF] = version.proof
        small = {role: file for role, file in files.items() if file.size_bytes <= _READ_WHOLE_BYTES}
        large = {role: file for role, file in files.items() if role not in small}
        whole = await asyncio.gather(*(self._whole(project, file) for file in small.values()))
        damaged = {role for role, intact in zip(small, whole, strict=True) if not intact}
        damaged |= {role for role, file in large.items() if self._ports.comparisons.is_damaged(project, file)}
        return sorted(damaged | set(await self.missing(project, large)))

    async def _whole(self, project: str, file: ArtifactRef) -> bool:
        try:
            await self._ports.files.read(project, file)
        except (NotFound, PreconditionFailed):
            return False
        return True
