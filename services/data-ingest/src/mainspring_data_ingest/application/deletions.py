"""Use cases of versions that go: what is kept, what is marked as deleted, and how bytes leave the store.

A version is marked in one transaction and is unreadable from then on; work that is queued in it removes its files, but
for those that a version which stays has too (files are named by their bytes).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar

from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.domain.datasets import Dataset, DatasetVersion, Deletion, DeletionCause
from mainspring_data_ingest.domain.manifests import Manifest
from mainspring_svckit.crash import crash_point
from mainspring_svckit.errors import NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import DatasetVersionName, project_name_of
from mainspring_svckit.pagination import MAX_PAGE_SIZE, Page
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import Entity, Repository, require
from mainspring_svckit.values import ArtifactRef

E = TypeVar("E", bound=Entity)

WORK_KIND = "dataset_version_removal"


async def readable(ports: Ports, name: str) -> DatasetVersion:
    """A version whose rows are there. Joins the ambient transaction.

    Raises:
        NotFound: There is no such version.
        PreconditionFailed: DATASET_VERSION_DELETED.
    """
    version = (await require(ports.versions, "DatasetVersion", name)).value
    if version.deletion is not None:
        successor = version.deletion.successor
        instead = f"; {successor} holds what is left of its rows" if successor else ""
        message = f"the rows of {name} are deleted ({version.deletion.cause.value.lower()}){instead}"
        raise PreconditionFailed("DATASET_VERSION_DELETED", message, {"successor": successor})
    return version


async def manifest_of(ports: Ports, version: DatasetVersion) -> Manifest:
    """A version's manifest.

    Raises:
        NotFound: The store lacks it.
        Unavailable: Another release wrote it.
    """
    data = await ports.files.read(DatasetVersionName.parse(version.name).project, version.manifest)
    try:
        return Manifest.parse(data)
    except ValueError as err:
        message = f"the manifest of {version.name} was written by another release of data-ingest; upgrade this one"
        raise Unavailable("MANIFEST_UNREADABLE", message) from err


async def let_go_of_surplus(ports: Ports, dataset: Dataset) -> None:
    """Marks what a dataset's retention lets go of. Joins the ambient transaction, which holds the dataset."""
    if not dataset.keep_newest:
        return
    held_out = {
        name
        async for recipe in every(ports.recipes, project_name_of(dataset.name))
        for name in recipe.evaluation_versions
    }
    async for version in every(ports.versions, dataset.name):
        if version.deletion is None and dataset.surplus(version.name) and version.name not in held_out:
            await mark(ports, version, Deletion(DeletionCause.RETENTION, ports.clock.now()))


async def mark(ports: Ports, version: DatasetVersion, deletion: Deletion) -> None:
    """Marks a version as deleted, and queues the removal of its files. Joins the ambient transaction."""
    await ports.versions.put(replace(version, deletion=deletion))
    await ports.work.enqueue(WORK_KIND, version.name)


class Removals:
    """Use case of removing the files of deleted versions."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def run(self, name: str, lease: Claim) -> None:
        """Removes the files of a deleted version. Safe to repeat."""
        # Files go while the dataset is held: a version that is published at the same time looks afterwards whether all
        # of its files are there, and writes them again if not.
        async with lease.complete():
            await self.remove(name)

    async def remove(self, name: str) -> None:
        """Removes the files of a version if it is deleted. Joins the ambient transaction."""
        ports = self._ports
        version = (await require(ports.versions, "DatasetVersion", name)).value
        await require(ports.datasets, "Dataset", version.dataset, lock=True)
        if version.deletion is not None:
            for file in await self._unshared_files(version):
                await ports.files.discard(DatasetVersionName.parse(name).project, file)
                crash_point("removal:after-file")

    async def _unshared_files(self, version: DatasetVersion) -> list[ArtifactRef]:
        """Files of a version, and of comparisons with it, that no version which stays has; its manifest comes last."""
        ports, project = self._ports, DatasetVersionName.parse(version.name).project
        files = list[ArtifactRef]()
        for field in ("base", "target"):
            for comparison in await ports.comparisons.find(field, version.name):
                files += [comparison.changes] if comparison.changes is not None else []
                await ports.comparisons.remove(comparison.name)
        try:
            files += [*(await manifest_of(ports, version)).files, version.manifest]
        except NotFound:
            return files  # The manifest goes last, so all of it is gone already.
        needed = await needed_files(ports, project)
        return [file for file in files if file.sha256 not in needed]


async def needed_files(ports: Ports, project: str) -> set[str]:
    """Digests of all files that the project's readable versions consist of, sources included."""
    needed = set[str]()
    async for version in living_versions(ports, project):
        needed |= {version.manifest.sha256, *(source.artifact.sha256 for source in version.sources)}
        needed |= {file.sha256 for file in (await manifest_of(ports, version)).files}
    return needed


async def all_versions(ports: Ports, project: str) -> AsyncIterator[DatasetVersion]:
    """The project's versions, deleted ones too. Joins the ambient transaction."""
    async for dataset in every(ports.datasets, f"projects/{project}"):
        async for version in every(ports.versions, dataset.name):
            yield version


async def living_versions(ports: Ports, project: str) -> AsyncIterator[DatasetVersion]:
    """The project's readable versions. Joins the ambient transaction."""
    async for version in all_versions(ports, project):
        if version.deletion is None:
            yield version


async def every(repository: Repository[E], parent: str) -> AsyncIterator[E]:
    """Every entity of a parent, page by page. Joins the ambient transaction."""
    after: str | None = None
    while True:
        listed = await repository.list(parent, Page(MAX_PAGE_SIZE, after))
        for item in listed.items:
            yield item.value
        if (after := listed.next_key) is None:
            return
