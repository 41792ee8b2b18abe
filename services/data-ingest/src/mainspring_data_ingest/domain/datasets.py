"""Datasets, their immutable versions, and the manifest that describes one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from mainspring_data_ingest.domain.ingestions import Source
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.names import DatasetName, DatasetVersionName
from mainspring_svckit.values import ArtifactRef

MANIFEST_SCHEMA = "mainspring.dataset.v1"


@dataclass(frozen=True)
class Dataset:
    """A named line of versions.

    Attributes:
        name: Resource name.
        create_time: When it was made.
        versions: How many it has had.
        tags: Names that people gave to versions.
        keep_newest: How many of the newest versions are kept; 0 keeps all.
    """

    name: str
    create_time: datetime
    versions: int = 0
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    keep_newest: int = 0

    @property
    def latest_version(self) -> str:
        """The newest version's name, or empty."""
        return self._version(self.versions) if self.versions else ""

    def with_version(self) -> tuple[Dataset, str]:
        """The dataset with one version more, and that version's name."""
        changed = replace(self, versions=self.versions + 1)
        return changed, changed.latest_version

    def tagged(self, tag: str, version: str) -> Dataset:
        """The dataset with a tag given to a version, or taken away when `version` is empty."""
        others = {known: name for known, name in self.tags.items() if known != tag}
        return replace(self, tags=dict(sorted((others | {tag: version}).items())) if version else others)

    def moved_tags(self, old: str, new: str) -> Dataset:
        """The dataset with the tags of one version given to another, or taken away when `new` is empty."""
        tags = {tag: new if name == old else name for tag, name in self.tags.items()}
        return replace(self, tags={tag: name for tag, name in tags.items() if name})

    def surplus(self, version: str) -> bool:
        """Whether retention lets go of a version."""
        if not self.keep_newest or version in self.tags.values():
            return False
        return int(DatasetVersionName.parse(version).version) <= self.versions - self.keep_newest

    def _version(self, number: int) -> str:
        name = DatasetName.parse(self.name)
        return str(DatasetVersionName(name.project, name.dataset, str(number)))


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a split.

    Attributes:
        split: The split.
        artifact: The file.
        rows: Rows in it.
        rows_sha256: SHA-256 over its rows as canonical JSON lines, whatever the encoding of the file.
    """

    split: Split
    artifact: ArtifactRef
    rows: int
    rows_sha256: str


@dataclass(frozen=True)
class Tally:
    """What became of the input rows; each is counted once."""

    splits: Mapping[Split, int]
    refusals: Mapping[RefusalReason, int]

    @property
    def input_rows(self) -> int:
        """Rows read."""
        return sum(self.splits.values()) + sum(self.refusals.values())


class DeletionCause(StrEnum):
    """Why a version's rows are gone."""

    RETENTION = "RETENTION"
    ERASURE = "ERASURE"


@dataclass(frozen=True)
class Deletion:
    """Says that a version's rows are gone from the store.

    Attributes:
        cause: Why.
        time: When it was decided.
        erasure: The erasure that did it; empty for other causes.
        successor: The version that holds what is left; empty when nothing is.
    """

    cause: DeletionCause
    time: datetime
    erasure: str = ""
    successor: str = ""


@dataclass(frozen=True)
class DatasetVersion:
    """An immutable, content-addressed set of rows.

    Once it is deleted, digests and counts are all that is left of it.
    """

    name: str
    dataset: str
    create_time: datetime
    root_sha256: str
    manifest: ArtifactRef
    ingestion_recipe: str
    recipe_sha256: str
    sources: tuple[Source, ...]
    tally: Tally
    refused: ArtifactRef | None
    cycle: str
    ingestion: str
    report: ArtifactRef | None = None
    deletion: Deletion | None = None
    supersedes: str = ""
    changed: ArtifactRef | None = None
    ingestion_recipe_version: str = ""

    @property
    def number(self) -> int:
        """Its place in the line, from 1."""
        return int(DatasetVersionName.parse(self.name).version)

    def is_made_of(self, sources: Sequence[Source], recipe_sha256: str, root_sha256: str) -> bool:
        """Whether the same sources and the same rules made it, and gave the same rows."""
        if self.deletion is not None:
            return False
        same_sources = [_read(source) for source in self.sources] == [_read(source) for source in sources]
        return same_sources and (self.recipe_sha256, self.root_sha256) == (recipe_sha256, root_sha256)


def root_sha256(shards: Sequence[Shard]) -> str:
    """The digest of a version's rows: over `<split> <rows_sha256>` lines, in the order of splits and shards."""
    hasher = hashlib.sha256()
    for split in Split:
        for shard in shards:
            if shard.split is split:
                hasher.update(f"{split.value.lower()} {shard.rows_sha256}\n".encode())
    return hasher.hexdigest()


def manifest_bytes(
    name: str,
    recipe: IngestionRecipe,
    sources: Sequence[Source],
    shards: Sequence[Shard],
    tally: Tally,
    refused: ArtifactRef | None,
    report: ArtifactRef,
    changed: ArtifactRef | None = None,
) -> bytes:
    """The manifest: canonical JSON (sorted keys, no spaces, UTF-8) of everything that makes the version what it is."""
    body = contents(name, shards, tally, refused, report, sources, changed)
    if recipe.version:
        body["recipe_version"] = recipe.version_name
    return canonical_json({**body, "recipe": recipe.as_json(), "recipe_sha256": recipe.applied_sha256()})


def contents(
    name: str,
    shards: Sequence[Shard],
    tally: Tally,
    refused: ArtifactRef | None,
    report: ArtifactRef | None,
    sources: Sequence[Source],
    changed: ArtifactRef | None,
) -> dict[str, Any]:
    """What a manifest says of everything but the recipe."""
    return {
        "schema": MANIFEST_SCHEMA,
        "name": name,
        "root_sha256": root_sha256(shards),
        "splits": {
            split.value.lower(): [
                {**_address(shard.artifact), "rows": shard.rows, "rows_sha256": shard.rows_sha256}
                for shard in shards
                if shard.split is split
            ]
            for split in Split
        },
        "input_rows": tally.input_rows,
        "refusals": {reason.value: rows for reason, rows in tally.refusals.items()},
        "refused": _address(refused) if refused is not None else None,
        "report": _address(report) if report is not None else None,
        **({"changed": _address(changed)} if changed is not None else {}),
        "sources": [
            {
                **asdict(source.artifact),
                "format": source.format.value,
                "columns": source.columns.as_json() if source.columns is not None else None,
                **({"origin": source.origin} if source.origin else {}),
            }
            for source in sources
        ],
    }


def canonical_json(body: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys, without spaces, in UTF-8."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _address(artifact: ArtifactRef) -> dict[str, str | int]:
    return {"sha256": artifact.sha256, "size_bytes": artifact.size_bytes}


def _read(source: Source) -> tuple[Any, ...]:
    """What of a source decides about rows; its file's name does not."""
    return source.artifact.sha256, source.format, source.columns, source.synthetic
