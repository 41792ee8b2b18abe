"""Use cases of ingestions: sources become a dataset version."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from mainspring_data_ingest.application.deletions import let_go_of_surplus, needed_files
from mainspring_data_ingest.application.files import remember
from mainspring_data_ingest.application.ports import Ports, Refined, Refiner
from mainspring_data_ingest.application.step_files import StepFinder
from mainspring_data_ingest.domain.columns import MESSAGES
from mainspring_data_ingest.domain.datasets import (
    Dataset,
    DatasetVersion,
    Shard,
    Tally,
    manifest_bytes,
    root_sha256,
)
from mainspring_data_ingest.domain.ingestions import Ingestion, Source, SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_svckit.errors import AlreadyExists, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import IngestionName, IngestionRecipeName, IngestionRecipeVersionName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef, Progress

WORK_KIND = "ingestion"
PARQUET = "application/vnd.apache.parquet"
JSON_LINES = "application/jsonl"


class _BaseMoved(Exception):
    """The dataset has got another version since the ingestion that adds to it began."""


@dataclass(frozen=True)
class CreateIngestion:
    """A wish for a version of exactly these sources."""

    project: str
    ingestion_id: str
    recipe: str
    sources: tuple[Source, ...]
    cycle: str


@dataclass(frozen=True)
class _Files:
    """What a version consists of, stored."""

    shards: tuple[Shard, ...]
    refused: ArtifactRef | None
    changed: ArtifactRef | None
    report: ArtifactRef


class Ingestions:
    """Use cases of ingestions."""

    def __init__(self, ports: Ports, refiner: Refiner, finder: StepFinder | None = None) -> None:
        """Takes the ports, what refines, and what finds the files of steps."""
        self._ports, self._refiner, self._finder = ports, refiner, finder or StepFinder(ports)

    async def create(self, command: CreateIngestion) -> Ingestion:
        """Queues an ingestion.

        Raises:
            NotFound: The recipe or its version is missing, or the store lacks a source.
        """
        for source in command.sources:
            if not await self._ports.files.exists(command.project, source.artifact):
                raise NotFound("Artifact", source.artifact.sha256)
        async with self._ports.transactions.transaction():
            recipe = await self._recipe(command.recipe)
            name = str(IngestionName(command.project, command.ingestion_id))
            return await self._queue(Ingestion(name, recipe, command.sources, command.cycle, self._ports.clock.now()))

    async def _recipe(self, name: str) -> IngestionRecipe:
        """A recipe as it stands, or as it stood in a version."""
        if IngestionRecipeVersionName.matches(name):
            return (await require(self._ports.recipe_versions, "IngestionRecipeVersion", name)).value.recipe
        return (await require(self._ports.recipes, "IngestionRecipe", name)).value

    async def add_examples(self, recipe_name: str, examples: ArtifactRef, ingestion_id: str, cycle: str) -> Ingestion:
        """Queues an ingestion that adds a file of messages to what the recipe's dataset holds.

        Raises:
            NotFound: The recipe is missing.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            recipe = (await require(ports.recipes, "IngestionRecipe", recipe_name)).value
            project = IngestionRecipeName.parse(recipe_name).project
            source = Source(examples, SourceFormat.JSONL, MESSAGES)
            name = str(IngestionName(project, ingestion_id))
            work = Ingestion(name, recipe, (source,), cycle, ports.clock.now(), added=1)
            return await self._queue(await self._on_newest(work))

    async def cancel(self, name: str) -> Ingestion:
        """Cancels an ingestion; its worker stops at its next sign of life.

        Raises:
            NotFound: There is no such ingestion.
            IllegalTransition: It has ended.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            # The queue comes first, as it does for the worker, so that the two never wait for each other.
            await ports.work.cancel(WORK_KIND, name)
            work = (await require(ports.ingestions, "Ingestion", name, lock=True)).value
            return await self._put(work.cancelled(ports.clock.now()))

    async def run(self, name: str, lease: Claim) -> None:
        """Does an ingestion: reads, stores, publishes. Safe to repeat from the start.

        Raises:
            MainspringError: As `Refiner.refine`, or the store failed.
        """
        while True:
            work = await self._begin(name, lease)

            async def report(progress: Progress, work: Ingestion = work) -> None:
                async with lease.transaction():
                    await self._put(replace(work, progress=progress))

            files = await self._finder.find(work.recipe)
            async with self._refiner.refine(work, files, report) as refined:
                rows = refined.tally.input_rows
                await report(Progress(done=rows, total=rows, unit="rows", phase="storing"))
                stored = await self._store(work, refined)
            try:
                async with lease.complete():
                    await self._publish(work, stored, refined.tally)
            except _BaseMoved:
                continue  # Only a version published meanwhile leads here, so somebody always gets on.
            return

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Records why an ingestion cannot be. Joins the ambient transaction."""
        work = (await require(self._ports.ingestions, "Ingestion", name, lock=True)).value
        now = self._ports.clock.now()
        await self._put(work.started(now).failed(reason, message, now))

    async def _begin(self, name: str, lease: Claim) -> Ingestion:
        async with lease.transaction():
            work = (await require(self._ports.ingestions, "Ingestion", name, lock=True)).value
            return await self._put((await self._on_newest(work)).started(self._ports.clock.now()))

    async def _on_newest(self, work: Ingestion) -> Ingestion:
        """An ingestion that adds, adding to the newest version; another one as it is."""
        if not work.added:
            return work
        dataset = await self._ports.datasets.get(work.recipe.dataset)
        if dataset is None or dataset.value.latest_version == work.base_version:
            return work
        newest = (await require(self._ports.versions, "DatasetVersion", dataset.value.latest_version)).value
        return work.rebased(newest.name, newest.sources)

    async def _store(self, work: Ingestion, refined: Refined) -> _Files:
        files, project = self._ports.files, IngestionName.parse(work.name).project
        # What is killed now and cancelled afterwards leaves bytes that are of no version, and of somebody.
        put = partial(files.put_file, project, before=partial(remember, self._ports, project))
        shards = tuple(
            [
                Shard(shard.split, await put(shard.path, media_type=PARQUET), shard.rows, shard.rows_sha256)
                for shard in refined.shards
            ]
        )
        refused = refined.refused and await put(refined.refused, media_type=JSON_LINES)
        changed = refined.changed and await files.put_file(project, refined.changed, media_type=JSON_LINES)
        report = await files.put_bytes(
            project, refined.report.as_bytes(), media_type="application/json", filename="report.json"
        )
        return _Files(shards, refused, changed, report)

    async def _publish(self, work: Ingestion, files: _Files, tally: Tally) -> None:
        """Ends the ingestion with a new version, or with the newest one when that is the same."""
        ports = self._ports
        dataset = await self._locked_dataset(work.recipe.dataset)
        newest = await ports.versions.get(dataset.latest_version) if dataset.versions else None
        if work.added and work.base_version != dataset.latest_version:
            raise _BaseMoved
        await self._require_stored(work, files)
        root, recipe_sha256 = root_sha256(files.shards), work.recipe.applied_sha256()
        if newest is not None and newest.value.is_made_of(work.sources, recipe_sha256, root):
            version = newest.value
        else:
            version = await self._add_version(dataset, work, files, tally)
        await self._put(work.succeeded(version.name, tally.input_rows, ports.clock.now()))

    async def _require_stored(self, work: Ingestion, files: _Files) -> None:
        """Makes sure that nothing of this version was removed after it was stored: with a deleted version that shared
        a file with it, or by an erasure.
        """
        project = IngestionName.parse(work.name).project
        for shard in files.shards:
            if not await self._ports.files.exists(project, shard.artifact):
                raise Unavailable("ARTIFACT_REMOVED", "a deleted version took a shard with it; it is written again")
        for source in work.sources:
            if not await self._ports.files.exists(project, source.artifact):
                # What was made of it holds what was erased, and is nobody's.
                needed = await needed_files(self._ports, project)
                made = (*(shard.artifact for shard in files.shards), files.refused, files.changed, files.report)
                for file in made:
                    if file is not None and file.sha256 not in needed:
                        await self._ports.files.discard(project, file)
                message = f"source {source.artifact.sha256} was erased while it was read; its rows are not published"
                raise PreconditionFailed("SOURCE_ERASED", message)

    async def _add_version(self, dataset: Dataset, work: Ingestion, files: _Files, tally: Tally) -> DatasetVersion:
        ports, project = self._ports, IngestionName.parse(work.name).project
        dataset, name = dataset.with_version()
        described = (tally, files.refused, files.report, files.changed)
        manifest = manifest_bytes(name, work.recipe, work.sources, files.shards, *described)
        version = DatasetVersion(
            name=name,
            dataset=dataset.name,
            create_time=ports.clock.now(),
            root_sha256=root_sha256(files.shards),
            manifest=await ports.files.put_bytes(
                project, manifest, media_type="application/json", filename="manifest.json"
            ),
            ingestion_recipe=work.recipe.name,
            recipe_sha256=work.recipe.applied_sha256(),
            sources=work.sources,
            tally=tally,
            refused=files.refused,
            cycle=work.cycle,
            ingestion=work.name,
            report=files.report,
            changed=files.changed,
            ingestion_recipe_version=work.recipe.version_name,
        )
        await ports.datasets.put(dataset)
        await ports.versions.add(version)
        await let_go_of_surplus(ports, dataset)
        await ports.announcements.version_published(version)
        return version

    async def _locked_dataset(self, name: str) -> Dataset:
        found = await self._ports.datasets.get(name, lock=True)
        if found is None:
            try:
                return (await self._ports.datasets.add(Dataset(name, self._ports.clock.now()))).value
            except AlreadyExists:
                # Another worker made it while we looked; by now it has committed.
                found = await require(self._ports.datasets, "Dataset", name, lock=True)
        return found.value

    async def _queue(self, work: Ingestion) -> Ingestion:
        stored = await self._ports.ingestions.add(work)
        await self._ports.work.enqueue(WORK_KIND, work.name)
        return stored.value

    async def _put(self, work: Ingestion) -> Ingestion:
        await self._ports.notifier.notify("watch", work.name)
        return (await self._ports.ingestions.put(work)).value
