"""Use cases of making one adapter of several."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.catalogue import ModelKind, ModelVersion
from mainspring_registry.domain.merges import DEFAULT_DENSITY, Merge, check_mergeable
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import MergeName, ModelName, ModelVersionName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import Repository, require

WORK_KIND = "merge"


@dataclass(frozen=True)
class MergedFiles:
    """What a merger made: files by role, and the folder that holds them; the caller removes it."""

    folder: Path
    files: Mapping[str, Path]


class AdapterMerger(Protocol):
    """Merges adapters, in a process of its own."""

    async def run(self, work: Merge, sources: Sequence[ModelVersion], base: ModelVersion) -> MergedFiles:
        """Makes the files of a version.

        Raises:
            InvalidInput: These adapters cannot be merged; the reason says why.
            Unavailable: It could not be tried now.
        """
        ...


class Merges:
    """Use cases of merges."""

    def __init__(self, ports: Ports, merges: Repository[Merge], catalogue: Catalogue, merger: AdapterMerger) -> None:
        self._ports, self._merges = ports, merges
        self._catalogue, self._merger = catalogue, merger

    async def create(self, wish: Merge) -> Merge:
        """Queues the work; aliases among the sources are resolved now.

        Args:
            wish: What is wanted, by people's names.

        Raises:
            NotFound: There is no such version.
            InvalidInput: A source or the model is of another project.
            PreconditionFailed: NOT_MERGEABLE, or the model is a line of something else.
        """
        project = MergeName.parse(wish.name).project
        sources = [await self._catalogue.version(source.model_version) for source in wish.sources]
        model = wish.model or sources[0].model
        projects = [ModelVersionName.parse(source.name).project for source in sources] + [
            ModelName.parse(model).project
        ]
        if set(projects) != {project}:
            message = f"what is merged and the model that gets the version must be of the project {project}"
            raise InvalidInput(message, reason="PROJECT_DIFFERS")
        check_mergeable(sources)
        named = tuple(
            replace(source, model_version=version.name) for source, version in zip(wish.sources, sources, strict=True)
        )
        density = wish.density or DEFAULT_DENSITY
        work = replace(wish, sources=named, model=model, density=density, create_time=self._ports.clock.now())
        async with self._ports.transactions.transaction():
            await self._catalogue.ensure_model(model, ModelKind.ADAPTER)
            stored = await self._merges.add(work)
            await self._ports.work.enqueue(WORK_KIND, work.name)
        return stored.value

    async def run(self, name: str, lease: Claim) -> None:
        """Does the work: makes the files, stores them, registers the version. Safe to repeat from the start.

        Raises:
            MainspringError: As `AdapterMerger.run`, or the store failed.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            work = (await require(self._merges, "Merge", name, lock=True)).value.started()
            await self._merges.put(work)
            await ports.notifier.notify("watch", name)
        sources = [await self._catalogue.version(source.model_version) for source in work.sources]
        base = await self._catalogue.version(sources[0].base_model_version)
        made = await self._merger.run(work, sources, base)
        try:
            project = ModelName.parse(work.model).project
            artifacts = {role: await ports.files.put_file(project, path) for role, path in made.files.items()}
        finally:
            await asyncio.to_thread(shutil.rmtree, made.folder, ignore_errors=True)
        async with lease.complete():
            model = (await require(ports.models, "Model", work.model, lock=True)).value
            version = await self._catalogue.add_version(
                model,
                artifacts=artifacts,
                serving=sources[0].serving,
                lineage=work.lineage(sources),
                licence=sources[0].licence,
                base=base,
                cycle=work.cycle,
                author=work.author,
            )
            await self._merges.put(work.succeeded(version.name, ports.clock.now()))
            await ports.notifier.notify("watch", name)

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Records why it cannot be. Joins the ambient transaction."""
        work = (await require(self._merges, "Merge", name, lock=True)).value.started()
        await self._merges.put(work.failed(reason, message, self._ports.clock.now()))
        await self._ports.notifier.notify("watch", name)
