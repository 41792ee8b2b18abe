"""Use cases of bringing foundation and embedding models into the catalogue."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.ports import ImportedFiles, ModelImporter, Ports
from mainspring_registry.domain.catalogue import Lineage, ModelKind, ModelVersion
from mainspring_registry.domain.imports import ModelImport
from mainspring_svckit.names import ModelImportName, ModelName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef

WORK_KIND = "model-import"
NO_LICENCE = "NOASSERTION"


@dataclass(frozen=True)
class CreateModelImport:
    """A wish to import; exactly one of `package`, `path` and `hub` is set."""

    project: str
    import_id: str
    model: str
    kind: ModelKind
    package: str = ""
    path: str = ""
    licence: str = ""
    context_tokens: int = 0
    author: str = ""
    hub: str = ""


class Imports:
    """Use cases of imports."""

    def __init__(self, ports: Ports, catalogue: Catalogue, importer: ModelImporter) -> None:
        self._ports, self._catalogue, self._importer = ports, catalogue, importer

    async def create(self, command: CreateModelImport) -> ModelImport:
        """Queues an import."""
        ModelName.parse(command.model, "model_import.model")
        work = ModelImport(
            name=str(ModelImportName(command.project, command.import_id)),
            model=command.model,
            kind=command.kind,
            package=command.package,
            path=command.path,
            licence=command.licence,
            context_tokens=command.context_tokens,
            create_time=self._ports.clock.now(),
            author=command.author,
            hub=command.hub,
        )
        async with self._ports.transactions.transaction():
            stored = await self._ports.imports.add(work)
            await self._ports.work.enqueue(WORK_KIND, work.name)
        return stored.value

    async def run(self, name: str, lease: Claim) -> None:
        """Does an import: converts the files, stores them, registers the version. Safe to repeat from the start.

        Raises:
            MainspringError: As `ModelImporter.run`, or the store failed.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            work = (await require(ports.imports, "ModelImport", name, lock=True)).value.started()
            await ports.imports.put(work)
            await ports.notifier.notify("watch", name)
        made = await self._importer.run(work)
        try:
            project = ModelName.parse(work.model).project
            artifacts = {role: await ports.files.put_file(project, path) for role, path in made.files.items()}
        finally:
            await asyncio.to_thread(shutil.rmtree, made.folder, ignore_errors=True)
        async with lease.complete():
            version = await self._register(work, artifacts, made)
            await ports.imports.put(work.succeeded(version.name, ports.clock.now()))
            await ports.notifier.notify("watch", name)

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Records why an import cannot be. Joins the ambient transaction."""
        work = (await require(self._ports.imports, "ModelImport", name, lock=True)).value.started()
        await self._ports.imports.put(work.failed(reason, message, self._ports.clock.now()))
        await self._ports.notifier.notify("watch", name)

    async def _register(
        self, work: ModelImport, artifacts: Mapping[str, ArtifactRef], made: ImportedFiles
    ) -> ModelVersion:
        """The version with these files; the same files again give the version that is there."""
        model = await self._catalogue.ensure_model(work.model, work.kind)
        digests = {role: artifact.sha256 for role, artifact in artifacts.items()}
        for known in await self._ports.versions.find("model", work.model):
            same_files = {role: artifact.sha256 for role, artifact in known.artifacts.items()} == digests
            if same_files and known.serving == made.serving:
                return known
        return await self._catalogue.add_version(
            model,
            artifacts=artifacts,
            serving=made.serving,
            lineage=Lineage(model_import=work.name, origin=made.origin),
            licence=work.licence or made.licence or NO_LICENCE,
            author=work.author,
        )
