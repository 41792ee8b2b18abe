"""Use cases of published versions: reading rows, comparing, bringing out, tags, retention."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mainspring_data_ingest.application.deletions import let_go_of_surplus, manifest_of, readable
from mainspring_data_ingest.application.line_pages import number_of, page_of_lines
from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.application.version_ports import MAX_PAGE_BYTES, ShardTools
from mainspring_data_ingest.domain.cards import card
from mainspring_data_ingest.domain.columns import SYNTHETIC_COLUMN
from mainspring_data_ingest.domain.comparisons import Comparison, comparison_name
from mainspring_data_ingest.domain.datasets import Dataset, DatasetVersion, Shard
from mainspring_data_ingest.domain.exports import ExportedFile, ExportFormat, croissant, parquet_files, paths_of
from mainspring_data_ingest.domain.manifests import Manifest
from mainspring_data_ingest.domain.report import Report, TextReport
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.errors import InvalidInput, PreconditionFailed, Unavailable
from mainspring_svckit.names import DatasetName, DatasetVersionName
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import require

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ComparisonPage:
    """One page of what a comparison found, with both versions' texts where they have reports."""

    comparison: Comparison
    changes: list[dict[str, Any]]
    next_key: str | None
    base_texts: TextReport | None
    target_texts: TextReport | None


@dataclass(frozen=True)
class FileBegins:
    """The beginning of an exported file."""

    path: str
    size_bytes: int
    sha256: str
    total_bytes: int = 0


class Versions:
    """Use cases of published versions."""

    def __init__(self, ports: Ports, tools: ShardTools) -> None:
        self._ports, self._tools = ports, tools

    async def rows(self, name: str, split: Split | None, page: Page) -> tuple[list[dict[str, Any]], str | None]:
        """One page of rows, and the key of the next.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DATASET_VERSION_DELETED.
        """
        version, manifest = await self._read(name)
        shards, skip = manifest.of(split), number_of(page.after)
        total = sum(shard.rows for shard in shards)
        if skip >= total:
            return [], None
        found = await self._tools.rows(DatasetVersionName.parse(name).project, shards, skip, page.size)
        following = skip + len(found)
        return [_marked(row, version) for row in found], str(following) if following < total else None

    async def compare(self, base: str, target: str, page: Page) -> ComparisonPage:
        """Compares two versions, or reads what was found before.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DATASET_VERSION_DELETED.
        """
        sides = [await self._read(name) for name in (base, target)]
        project = DatasetVersionName.parse(base).project
        name = comparison_name(base, target)
        async with self._ports.transactions.transaction():
            known = await self._ports.comparisons.get(name)
        found = known.value if known is not None else await self._compared(name, sides[0][1], sides[1][1])
        lines, next_key = (
            await page_of_lines(self._ports.files, project, found.changes, page, max_bytes=MAX_PAGE_BYTES)
            if found.changes is not None
            else ([], None)
        )
        changes = [json.loads(line) for line in lines]
        for side, (version, _) in zip(("base", "target"), sides, strict=True):
            for change in changes:
                change[side] = change[side] and _marked(change[side], version)
        texts = [await self._texts(version) for version, _ in sides]
        return ComparisonPage(found, changes, next_key, texts[0], texts[1])

    async def card(self, name: str) -> tuple[str, bytes]:
        """A version's card in Markdown, and its Croissant metadata.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DATASET_VERSION_DELETED.
        """
        version, manifest = await self._read(name)
        columns = await self._tools.columns(DatasetVersionName.parse(name).project, manifest.shards)
        files = parquet_files(manifest.shards, columns)
        text = card(version, manifest, await self._report(version), files, columns)
        return text, croissant(version, files, ExportFormat.PARQUET)

    async def export(self, name: str, form: ExportFormat) -> AsyncIterator[FileBegins | bytes]:
        """A folder of files, each as its beginning and its bytes.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DATASET_VERSION_DELETED, or a shard is damaged.
        """
        version, manifest = await self._read(name)
        project = DatasetVersionName.parse(name).project
        total = sum(shard.artifact.size_bytes for shard in manifest.shards)
        columns = await self._tools.columns(project, manifest.shards)
        written: list[ExportedFile] = []
        for path, shard in zip(paths_of(manifest.shards, form), manifest.shards, strict=True):
            context = (
                self._tools.fetched(project, shard.artifact)
                if form is ExportFormat.PARQUET
                else self._tools.json_lines(project, shard)
            )
            async with context as file:
                begins = await asyncio.to_thread(_begins, file, path, total if not written else 0)
                present = columns if form is ExportFormat.PARQUET else await asyncio.to_thread(_present, file, columns)
                written.append(_written(shard, begins, present))
                yield begins
                async for chunk in _chunks(file):
                    yield chunk
        small = {
            "manifest.json": await self._ports.files.read(project, version.manifest),
            **({"report.json": await self._ports.files.read(project, version.report)} if version.report else {}),
            "README.md": card(version, manifest, await self._report(version), written, columns).encode(),
            "croissant.json": croissant(version, written, form),
        }
        for path, data in small.items():
            yield FileBegins(path, len(data), hashlib.sha256(data).hexdigest())
            for start in range(0, len(data), _CHUNK_BYTES):
                yield data[start : start + _CHUNK_BYTES]

    async def tag(self, dataset: str, tag: str, version: str) -> Dataset:
        """Gives a tag to a version, or takes it away when `version` is empty. Joins the ambient transaction.

        Raises:
            NotFound: The dataset or the version is missing.
            InvalidInput: VERSION_OF_ANOTHER_DATASET.
            PreconditionFailed: DATASET_VERSION_DELETED.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            found = (await require(ports.datasets, "Dataset", dataset, lock=True)).value
            if version and (await readable(ports, version)).dataset != dataset:
                raise InvalidInput(f"{version} is not one of {dataset}", reason="VERSION_OF_ANOTHER_DATASET")
            changed = (await ports.datasets.put(found.tagged(tag, version))).value
            await let_go_of_surplus(ports, changed)
            return changed

    async def retain(self, dataset: str, keep_newest: int) -> Dataset:
        """Says how many versions are kept. Joins the ambient transaction.

        Raises:
            NotFound: The dataset is missing.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            found = (await require(ports.datasets, "Dataset", dataset, lock=True)).value
            changed = (await ports.datasets.put(replace(found, keep_newest=keep_newest))).value
            await let_go_of_surplus(ports, changed)
            return changed

    async def _read(self, name: str) -> tuple[DatasetVersion, Manifest]:
        async with self._ports.transactions.transaction():
            version = await readable(self._ports, name)
        return version, await manifest_of(self._ports, version)

    async def _compared(self, name: str, base: Manifest, target: Manifest) -> Comparison:
        ports, project = self._ports, DatasetVersionName.parse(base.name).project
        async with self._tools.compare(project, base, target) as compared:
            changes = compared.changes and await ports.files.put_file(
                project, compared.changes, media_type="application/jsonl"
            )
            found = Comparison(name, base.name, target.name, compared.counts, changes)
        try:
            async with ports.transactions.transaction():
                # Held, so that a version that is deleted meanwhile takes the comparison with it.
                for dataset in sorted({str(_dataset_of(base.name)), str(_dataset_of(target.name))}):
                    await require(ports.datasets, "Dataset", dataset, lock=True)
                for version in (base.name, target.name):
                    await readable(ports, version)
                return (await ports.comparisons.put(found)).value
        except PreconditionFailed:
            if changes is not None:  # It holds rows that are deleted.
                await ports.files.discard(project, changes)
            raise

    async def _report(self, version: DatasetVersion) -> Report | None:
        if version.report is None:
            return None
        try:
            return Report.parse(
                await self._ports.files.read(DatasetVersionName.parse(version.name).project, version.report)
            )
        except ValueError as err:
            message = f"the report of {version.name} was written by another release of data-ingest; upgrade this one"
            raise Unavailable("REPORT_UNREADABLE", message) from err

    async def _texts(self, version: DatasetVersion) -> TextReport | None:
        report = await self._report(version)
        return report.after if report is not None else None


def _marked(row: dict[str, Any], version: DatasetVersion) -> dict[str, Any]:
    """A row with the mark of its source; rows of older versions do not have it themselves."""
    return {**row, SYNTHETIC_COLUMN: True} if version.sources[row["source_index"]].synthetic else row


def _dataset_of(version: str) -> DatasetName:
    name = DatasetVersionName.parse(version)
    return DatasetName(name.project, name.dataset)


def _begins(file: Path, path: str, total_bytes: int) -> FileBegins:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return FileBegins(path, opened.tell(), digest, total_bytes)


def _present(file: Path, columns: Sequence[str]) -> tuple[str, ...]:
    """Those columns that some row of a file of canonical rows has: there quotes within texts are escaped."""
    keys = {column: f'"{column}":'.encode() for column in columns}
    missing = set(columns)
    with file.open("rb") as lines:
        for line in lines:
            missing -= {column for column in missing if keys[column] in line}
            if not missing:
                break
    return tuple(column for column in columns if column not in missing)


def _written(shard: Shard, begins: FileBegins, columns: tuple[str, ...]) -> ExportedFile:
    return ExportedFile(begins.path, shard.split, shard.rows, begins.size_bytes, begins.sha256, columns)


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while chunk := await asyncio.to_thread(opened.read, _CHUNK_BYTES):
            yield chunk
