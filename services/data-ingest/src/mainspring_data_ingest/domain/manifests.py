"""Manifests, read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mainspring_data_ingest.domain.datasets import MANIFEST_SCHEMA, Shard, Tally, canonical_json, contents
from mainspring_data_ingest.domain.ingestions import Source
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.values import ArtifactRef


@dataclass(frozen=True)
class Manifest:
    """What a version consists of.

    Attributes:
        name: The version.
        root_sha256: Digest of its rows.
        shards: Its files, in the order of splits.
        refused: Refused rows; None when there are none.
        report: What became of every row.
        body: The manifest as it was written.
        changed: Which rows steps have changed; None when there are none.
    """

    name: str
    root_sha256: str
    shards: tuple[Shard, ...]
    refused: ArtifactRef | None
    report: ArtifactRef | None
    body: Mapping[str, Any]
    changed: ArtifactRef | None = None

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Reads what `manifest_bytes` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            body = json.loads(data)
            if body["schema"] != MANIFEST_SCHEMA:
                raise KeyError("schema")
            shards = tuple(
                Shard(split, _artifact(shard, "application/vnd.apache.parquet"), shard["rows"], shard["rows_sha256"])
                for split in Split
                for shard in body["splits"][split.value.lower()]
            )
            refused, report, changed = body["refused"], body.get("report"), body.get("changed")
            return cls(
                body["name"],
                body["root_sha256"],
                shards,
                _artifact(refused, "application/jsonl") if refused is not None else None,
                _artifact(report, "application/json") if report is not None else None,
                body,
                _artifact(changed, "application/jsonl") if changed is not None else None,
            )
        except (KeyError, TypeError, AttributeError) as err:
            raise ValueError(f"not a {MANIFEST_SCHEMA}") from err

    def of(self, split: Split | None) -> tuple[Shard, ...]:
        """The files of one split, or of all."""
        return tuple(shard for shard in self.shards if split is None or shard.split is split)

    @property
    def files(self) -> tuple[ArtifactRef, ...]:
        """Everything in the store that belongs to the version, but for its sources and the manifest itself."""
        others = tuple(file for file in (self.refused, self.changed, self.report) if file is not None)
        return (*(shard.artifact for shard in self.shards), *others)


def _artifact(body: Mapping[str, Any], media_type: str) -> ArtifactRef:
    return ArtifactRef(body["sha256"], body["size_bytes"], media_type)


def successor_bytes(
    old: Manifest,
    name: str,
    *,
    erasure: str,
    shards: Sequence[Shard],
    refused: ArtifactRef | None,
    report: ArtifactRef | None,
    tally: Tally,
    sources: Sequence[Source],
    changed: ArtifactRef | None,
) -> bytes:
    """The manifest of the version that takes another one's place after an erasure: the same but for what was erased."""
    body = contents(name, shards, tally, refused, report, sources, changed)
    body |= {key: old.body[key] for key in ("recipe", "recipe_sha256", "recipe_version") if key in old.body}
    return canonical_json({**body, "supersedes": old.name, "erasure": erasure})
