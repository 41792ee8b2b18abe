"""Use cases of erasures.

Each version in which something is found gets a successor and is marked as deleted in one transaction, which also writes
down what was done; so a worker that takes over goes on with the next version. Passes go on until one finds nothing:
a version may have been published meanwhile from a source that held what is looked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from mainspring_data_ingest.application.deletions import (
    Removals,
    all_versions,
    living_versions,
    manifest_of,
    mark,
    needed_files,
    readable,
)
from mainspring_data_ingest.application.erasure_reports import ErasureReports
from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.application.traces import Traces
from mainspring_data_ingest.application.version_ports import Leftovers, ModelLineage, ShardTools
from mainspring_data_ingest.domain.columns import MESSAGES
from mainspring_data_ingest.domain.datasets import (
    Dataset,
    DatasetVersion,
    Deletion,
    DeletionCause,
    Shard,
    Tally,
    root_sha256,
)
from mainspring_data_ingest.domain.erasures import ErasedVersion, Erasure, Selector, proof_bytes
from mainspring_data_ingest.domain.ingestions import SYNTHETIC, Source, SourceFormat
from mainspring_data_ingest.domain.manifests import Manifest, successor_bytes
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.crash import crash_point
from mainspring_svckit.errors import FieldViolation, InvalidInput, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import ErasureName, ModelVersionName, ReleaseName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef, Progress, folded

WORK_KIND = "erasure"
PARQUET = "application/vnd.apache.parquet"
JSON_LINES = "application/jsonl"
RESIDUE_COLUMNS = replace(MESSAGES, group_column="group")
_MIN_CHARACTERS = 3
_Found = Callable[[DatasetVersion, Manifest, Leftovers], Awaitable[None]]


@dataclass(frozen=True)
class _Made:
    """What a successor consists of, stored."""

    shards: tuple[Shard, ...]
    refused: ArtifactRef | None
    changed: ArtifactRef | None
    report: ArtifactRef | None
    sources: tuple[Source, ...]
    tally: Tally


class Erasures:
    """Use cases of erasures."""

    def __init__(
        self, ports: Ports, tools: ShardTools, traces: Traces, reports: ErasureReports, lineage: ModelLineage | None
    ) -> None:
        """Takes the ports, what reads shards, what looks beyond versions, and what accounts for rows; without `lineage`
        nobody is asked which models learned from what was erased.
        """
        self._ports, self._tools, self._traces, self._reports, self._lineage = ports, tools, traces, reports, lineage
        self._removals = Removals(ports)

    async def create(
        self, project: str, erasure_id: str, selector: Selector, salt: str, *, search_only: bool = False
    ) -> Erasure:
        """Queues an erasure, or a search that removes nothing.

        Raises:
            InvalidInput: The text would be found everywhere.
        """
        if selector.text and len(folded(selector.text)) < _MIN_CHARACTERS:
            description = f"has fewer than {_MIN_CHARACTERS} characters that count; white space at its ends does not"
            violation = FieldViolation("selector.text", description)
            raise InvalidInput(f"selector.text {description}", violations=[violation])
        ports, name = self._ports, str(ErasureName(project, erasure_id))
        async with ports.transactions.transaction():
            stored = await ports.erasures.add(Erasure(name, selector, salt, ports.clock.now(), search_only=search_only))
            await ports.work.enqueue(WORK_KIND, name)
            return stored.value

    async def run(self, name: str, lease: Claim) -> None:
        """Does an erasure. Safe to repeat: what is done stays done.

        Raises:
            MainspringError: A file is missing or damaged, or somebody could not be asked now.
        """
        project = ErasureName.parse(name).project
        async with lease.transaction():
            work = await self._put((await self._held(name)).started())
        if work.search_only:
            await self._look(work, project, lease)
            return

        async def replace_it(version: DatasetVersion, manifest: Manifest, left: Leftovers) -> None:
            await self._replace(name, project, version, manifest, left, lease)

        while await self._pass(work, project, lease, replace_it):
            await self._remove(name, project, lease)
        # Once more, for a worker that died between a version and its removal.
        await self._remove(name, project, lease)
        await self._traces.erase(name, project, work.selector, lease)
        await self._ask_lineage(name, lease)
        await self._prove(name, project, lease)

    async def _look(self, work: Erasure, project: str, lease: Claim) -> None:
        """Looks at every version and writes down where something is; begun anew by a worker that takes over."""
        name = work.name
        found: list[ErasedVersion] = []

        async def note(version: DatasetVersion, manifest: Manifest, left: Leftovers) -> None:
            del manifest
            refused, sources = sum(left.erased_refused.values()), [version.sources[i].artifact for i in left.affected]
            where = (version.name, version.root_sha256, left.erased_rows, refused)
            found.append(
                ErasedVersion(*where, successor="", successor_root_sha256="", sources=tuple(sources), files=())
            )

        await self._pass(work, project, lease, note)
        async with lease.transaction():
            presumed = await self._presumed(project, work.selector, found)
            await self._put(replace(await self._held(name), versions=tuple(found), presumed=presumed))
        await self._ask_lineage(name, lease)
        async with lease.complete():
            await self._put((await self._held(name)).looked(self._ports.clock.now()))

    async def _presumed(self, project: str, selector: Selector, found: list[ErasedVersion]) -> tuple[str, ...]:
        """Versions whose rows are gone and that held it too: read from a source that holds it, or what such a version
        was before an erasure.
        """
        digests = {source.sha256 for one in found for source in one.sources} | {selector.source_sha256}
        versions = {version.name: version async for version in all_versions(self._ports, project)}
        presumed = {
            version.name
            for version in versions.values()
            if version.deletion is not None and any(source.artifact.sha256 in digests for source in version.sources)
        }
        for name in (*(one.version for one in found if one.rows), *sorted(presumed)):
            while (name := versions[name].supersedes) and name in versions:
                presumed.add(name)
        return tuple(sorted(presumed - {one.version for one in found}))

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Records why an erasure cannot be done. Joins the ambient transaction."""
        await self._put((await self._held(name)).started().failed(reason, message, self._ports.clock.now()))

    async def _pass(self, wish: Erasure, project: str, lease: Claim, do: _Found) -> bool:
        """Looks at every version once, the oldest of a dataset first, and does something about each in which something
        is found; returns whether there was one.
        """
        async with self._ports.transactions.transaction():
            versions = [version async for version in living_versions(self._ports, project)]
        versions.sort(key=lambda version: (version.dataset, version.number))
        found = False
        for number, version in enumerate(versions):
            progress = Progress(done=number, total=len(versions), unit="versions", phase="searching")
            async with lease.transaction():
                work = await self._held(wish.name)
                await self._put(replace(work, progress=progress, searched=max(work.searched, number + 1)))
            try:
                found |= await self._search(wish, project, version, do)
            except (NotFound, PreconditionFailed):
                async with self._ports.transactions.transaction():
                    now = (await require(self._ports.versions, "DatasetVersion", version.name)).value
                if now.deletion is None:
                    raise  # Otherwise retention has let go of it while it was read.
        return found

    async def _search(self, wish: Erasure, project: str, version: DatasetVersion, do: _Found) -> bool:
        manifest = await manifest_of(self._ports, version)
        sought = await self._reports.sought(wish.name, wish.selector, version, search_only=wish.search_only)
        async with self._tools.without(project, manifest, version.sources, sought) as left:
            crash_point("erasure:after-search")
            if left.found:
                await do(version, manifest, left)
            return left.found

    async def _replace(
        self, name: str, project: str, version: DatasetVersion, manifest: Manifest, left: Leftovers, lease: Claim
    ) -> None:
        """Puts a successor in a version's place."""
        ports = self._ports
        shards = [
            Shard(s.split, await ports.files.put_file(project, s.path, media_type=PARQUET), s.rows, s.rows_sha256)
            for s in left.shards
        ]
        refused = left.refused and await ports.files.put_file(project, left.refused, media_type=JSON_LINES)
        changed = left.changed and await ports.files.put_file(project, left.changed, media_type=JSON_LINES)
        sources = await self._sources(project, version, left)
        tally = _tally(version.tally, left)
        report = await self._reports.write(version, left, tally.refusals) if shards else None
        made = _Made(tuple(shards), refused, changed, report, sources, tally)
        async with lease.transaction():
            dataset = (await require(ports.datasets, "Dataset", version.dataset, lock=True)).value
            await readable(ports, version.name)
            work = await self._held(name)
            successor = ""
            if shards:
                successor = (await self._publish(dataset, work, version, manifest, made)).name
                dataset = dataset.with_version()[0]
            await ports.datasets.put(dataset.moved_tags(version.name, successor))
            now = ports.clock.now()
            await mark(ports, version, Deletion(DeletionCause.ERASURE, now, name, successor))
            done = ErasedVersion(
                version=version.name,
                root_sha256=version.root_sha256,
                rows=left.erased_rows,
                refused_rows=sum(left.erased_refused.values()),
                successor=successor,
                successor_root_sha256=root_sha256(shards) if shards else "",
                sources=tuple(version.sources[index].artifact for index in left.affected),
                files=(*manifest.files, version.manifest),
            )
            rows = Selector(row_ids=left.row_ids)
            removed = await self._traces.erase_items(project, rows) if left.row_ids else {}
            await self._put(replace(work, versions=(*work.versions, done)).with_queues(removed))
            crash_point("erasure:before-commit")
        crash_point("erasure:after-commit")

    async def _sources(self, project: str, version: DatasetVersion, left: Leftovers) -> tuple[Source, ...]:
        sources: list[Source] = []
        for index, source in enumerate(version.sources):
            if index in left.residues:
                media_type = SYNTHETIC if source.synthetic else JSON_LINES
                residue = await self._ports.files.put_file(
                    project, left.residues[index], media_type=media_type, filename="residue.jsonl"
                )
                sources.append(Source(residue, SourceFormat.JSONL, RESIDUE_COLUMNS))
            elif index not in left.affected:
                sources.append(source)
        return tuple(sources)

    async def _publish(
        self, dataset: Dataset, work: Erasure, version: DatasetVersion, manifest: Manifest, made: _Made
    ) -> DatasetVersion:
        """Adds the successor; others hear of it when it takes the place of the newest version."""
        ports = self._ports
        _, name = dataset.with_version()
        body = successor_bytes(
            manifest,
            name,
            erasure=work.name,
            shards=made.shards,
            refused=made.refused,
            report=made.report,
            tally=made.tally,
            sources=made.sources,
            changed=made.changed,
        )
        stored = await ports.files.put_bytes(
            ErasureName.parse(work.name).project, body, media_type="application/json", filename="manifest.json"
        )
        successor = replace(
            version,
            name=name,
            create_time=ports.clock.now(),
            root_sha256=root_sha256(made.shards),
            manifest=stored,
            sources=made.sources,
            tally=made.tally,
            refused=made.refused,
            report=made.report,
            changed=made.changed,
            supersedes=version.name,
        )
        await ports.versions.add(successor)
        if version.name == dataset.latest_version and made.tally.splits.get(Split.TRAIN, 0):
            await ports.announcements.version_published(successor)
        return successor

    async def _remove(self, name: str, project: str, lease: Claim) -> None:
        """Removes the bytes of erased versions and of the sources that held what is looked for."""
        ports = self._ports
        async with ports.transactions.transaction():
            work = (await require(ports.erasures, "Erasure", name)).value
        for erased in work.versions:
            async with lease.transaction():
                await self._removals.remove(erased.version)
                needed = await needed_files(ports, project)
                for source in erased.sources:
                    if source.sha256 not in needed:
                        await ports.files.discard(project, source)
            crash_point("erasure:after-removal")

    async def _ask_lineage(self, name: str, lease: Claim) -> None:
        if self._lineage is None:
            return
        async with self._ports.transactions.transaction():
            work = (await require(self._ports.erasures, "Erasure", name)).value
        names = (*(erased.version for erased in work.versions), *work.presumed)
        saw = sorted({seen for name_ in names for seen in await self._lineage.saw(name_)})
        models, releases = (tuple(n for n in saw if kind.matches(n)) for kind in (ModelVersionName, ReleaseName))
        async with lease.transaction():
            work = await self._held(name)
            await self._put(replace(work, model_versions=models, releases=releases, lineage_known=True))

    async def _prove(self, name: str, project: str, lease: Claim) -> None:
        """Sees that everything is gone, and says so.

        Raises:
            Unavailable: ERASURE_UNPROVED, something is there still; it is removed at the next try.
        """
        ports = self._ports
        async with lease.complete():
            work, needed = await self._held(name), await needed_files(ports, project)
            files = {f.sha256: f for erased in work.versions for f in (*erased.files, *erased.sources)}
            files |= {file.sha256: file for file in work.uploads}
            shared = [file for file in files.values() if file.sha256 in needed]
            gone = [file for file in files.values() if file.sha256 not in needed]
            held = [s for erased in work.versions for s in erased.sources if s.sha256 in needed]
            # Of single rows only: another recipe may have made other rows of the same record, which nobody named.
            if held and not work.selector.row_ids:
                message = f"a version that was published meanwhile is made of source {held[0].sha256}"
                raise Unavailable("ERASURE_UNPROVED", f"{message}; it is searched at the next try")
            for file in gone:
                if await ports.files.exists(project, file):
                    raise Unavailable("ERASURE_UNPROVED", f"the store still holds {file.sha256}; trying again")
            now = ports.clock.now()
            proof = await ports.files.put_bytes(
                project, proof_bytes(work, gone, shared, now), media_type="application/json", filename="erasure.json"
            )
            await self._put(work.succeeded(proof, now))

    async def _held(self, name: str) -> Erasure:
        return (await require(self._ports.erasures, "Erasure", name, lock=True)).value

    async def _put(self, work: Erasure) -> Erasure:
        await self._ports.notifier.notify("watch", work.name)
        return (await self._ports.erasures.put(work)).value


def _tally(tally: Tally, left: Leftovers) -> Tally:
    """The counts of the successor: what was erased is refused for that reason, so all input rows are still there."""
    splits: Counter[Split] = Counter()
    for shard in left.shards:
        splits[shard.split] += shard.rows
    refusals = Counter(tally.refusals) - Counter(left.erased_refused)
    refusals[RefusalReason.ERASED] += left.erased_rows + sum(left.erased_refused.values())
    return Tally({split: splits[split] for split in Split}, dict(sorted((+refusals).items())))
