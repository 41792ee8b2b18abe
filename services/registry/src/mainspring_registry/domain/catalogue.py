"""Models and their versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import GateDecisionName, ModelName, ModelVersionName, ReleaseName
from mainspring_svckit.values import ArtifactRef

CHAMPION = "champion"
CHALLENGER = "challenger"
FOLLOW_ROLL_OUTS = frozenset({CHAMPION, CHALLENGER})
"""Aliases that people cannot set."""


class ModelKind(StrEnum):
    """What a model is for."""

    FOUNDATION = "FOUNDATION"
    ADAPTER = "ADAPTER"
    EMBEDDING = "EMBEDDING"
    MERGED = "MERGED"


@dataclass(frozen=True)
class ServingSpec:
    """What an engine and the answer path must know to serve a version exactly as it was evaluated."""

    context_tokens: int
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    dimensions: int = 0


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from; empty strings where something does not apply."""

    training_run: str = ""
    dataset_version: str = ""
    dataset_root_sha256: str = ""
    recipe_sha256: str = ""
    parent_model_version: str = ""
    model_import: str = ""
    origin: str = ""
    quantized_from: str = ""
    merged_from: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Model:
    """A named line of versions, with the counters that number what belongs to it."""

    name: str
    kind: ModelKind
    create_time: datetime
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    versions: int = 0
    decisions: int = 0
    releases: int = 0
    active_release: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    history: int = 0
    history_sha256: str = ""

    def with_version(self) -> tuple[Model, str]:
        """The model with one version more, and that version's name."""
        changed = replace(self, versions=self.versions + 1)
        return changed, str(ModelVersionName(*self._ids(), str(changed.versions)))

    def with_decision(self) -> tuple[Model, str]:
        """The model with one gate decision more, and that decision's name."""
        changed = replace(self, decisions=self.decisions + 1)
        return changed, str(GateDecisionName(*self._ids(), str(changed.decisions)))

    def with_release(self) -> tuple[Model, str]:
        """The model with one release more, and that release's name; it is the active one."""
        changed = replace(self, releases=self.releases + 1)
        name = str(ReleaseName(*self._ids(), str(changed.releases)))
        return replace(changed, active_release=name), name

    def with_alias(self, alias: str, version: str) -> Model:
        """The model with `alias` pointing at a version's number."""
        return replace(self, aliases={**self.aliases, alias: ModelVersionName.parse(version).version})

    def with_champion(self, version: str) -> Model:
        """The model with a champion, and without a challenger: nothing is rolled out against it."""
        return self.with_alias(CHAMPION, version).without_alias(CHALLENGER)

    def with_challenger(self, version: str) -> Model:
        """The model with a version that is rolled out against its champion; with none where that is nothing else."""
        if self.version_of(CHAMPION) in {None, version}:
            return self.without_alias(CHALLENGER)
        return self.with_alias(CHALLENGER, version)

    def without_alias(self, alias: str) -> Model:
        """The model without that alias."""
        return replace(self, aliases={name: number for name, number in self.aliases.items() if name != alias})

    def version_of(self, alias: str) -> str | None:
        """The version that an alias points at, or None."""
        number = self.aliases.get(alias)
        return str(ModelVersionName(*self._ids(), number)) if number else None

    def require_kind(self, kind: ModelKind) -> None:
        """Raises `PreconditionFailed` when the model is for something else."""
        if self.kind is not kind:
            message = f"{self.name} is a line of {self.kind.value} models, not {kind.value}; choose another name"
            raise PreconditionFailed("MODEL_KIND_DIFFERS", message, {"name": self.name, "kind": self.kind.value})

    def _ids(self) -> tuple[str, str]:
        name = ModelName.parse(self.name)
        return name.project, name.model


@dataclass(frozen=True)
class ModelVersion:
    """An immutable set of files with everything needed to serve it."""

    name: str
    model: str
    kind: ModelKind
    base_model_version: str
    artifacts: Mapping[str, ArtifactRef]
    manifest: ArtifactRef
    serving: ServingSpec
    lineage: Lineage
    licence: str
    create_time: datetime
    cycle: str = ""
    training_run: str = ""
    proof: ArtifactRef | None = None
    author: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def number(self) -> int:
        """Its place in the line, from 1."""
        return int(ModelVersionName.parse(self.name).version)

    @property
    def parent(self) -> str:
        """The version that it was tuned on from or made smaller from, else its foundation model; empty for none."""
        return self.lineage.parent_model_version or self.lineage.quantized_from or self.base_model_version


@dataclass(frozen=True)
class ModelQuery:
    """What a list of models is narrowed to.

    Attributes:
        kind: None for any.
        tag: `key` or `key=value`; empty for any.
        text: Held by the id or the description, whatever its case; empty for any.
    """

    kind: ModelKind | None = None
    tag: str = ""
    text: str = ""

    def matches(self, model: Model) -> bool:
        """Whether a model belongs to the list."""
        key, sign, value = self.tag.partition("=")
        tagged = not key or (model.tags.get(key) == value if sign else key in model.tags)
        text = self.text.lower()
        said = text in ModelName.parse(model.name).model or text in model.description.lower()
        return (self.kind is None or model.kind is self.kind) and tagged and said


def manifest_bytes(
    name: str,
    kind: ModelKind,
    base_manifest_sha256: str,
    artifacts: Mapping[str, ArtifactRef],
    serving: ServingSpec,
    lineage: Lineage,
    licence: str,
) -> bytes:
    """The manifest: canonical JSON (sorted keys, no spaces, UTF-8) of everything that makes the version what it is."""
    body = {
        "schema": "mainspring.manifest.v1",
        "name": name,
        "kind": kind.value,
        "base_manifest_sha256": base_manifest_sha256,
        "artifacts": {role: {"sha256": a.sha256, "size_bytes": a.size_bytes} for role, a in artifacts.items()},
        "serving": serving.__dict__,
        "lineage": {**lineage.__dict__, "environment": dict(lineage.environment)},
        "licence": licence,
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
