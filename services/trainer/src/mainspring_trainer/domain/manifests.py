"""The manifest of a dataset version, as data-ingest writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import ArtifactRef
from mainspring_trainer.domain.runs import Dataset

SCHEMA = "mainspring.dataset.v1"
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a split."""

    file: ArtifactRef
    rows: int


@dataclass(frozen=True)
class Manifest:
    """The shards of a dataset version, by split and in order."""

    splits: Mapping[str, tuple[Shard, ...]]

    def rows(self, split: str) -> int:
        """Rows in a split."""
        return sum(shard.rows for shard in self.splits.get(split, ()))


def read_manifest(dataset: Dataset, data: bytes) -> Manifest:
    """Reads a manifest.

    Raises:
        PreconditionFailed: DATASET_MISMATCH, it is not the manifest of these rows.
    """
    try:
        body: dict[str, Any] = json.loads(data)
        schema, root = body["schema"], body["root_sha256"]
        splits = {
            str(split): tuple(
                Shard(ArtifactRef(str(shard["sha256"]), int(shard["size_bytes"])), int(shard["rows"]))
                for shard in shards
            )
            for split, shards in body["splits"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise _mismatch(dataset, f"cannot be read ({type(err).__name__})") from err
    if schema != SCHEMA:
        raise _mismatch(dataset, f"is of the schema {schema!r}, not {SCHEMA}")
    if root != dataset.root_sha256:
        raise _mismatch(dataset, f"names the rows {root}, not {dataset.root_sha256}")
    return Manifest(splits)


def _mismatch(dataset: Dataset, what: str) -> PreconditionFailed:
    message = f"the manifest of {dataset.name} {what}; publish the dataset version again"
    return PreconditionFailed("DATASET_MISMATCH", message, {"datasetVersion": dataset.name})
