"""Making one adapter of several in the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mainspring_registry.domain.catalogue import Lineage, ModelKind, ModelVersion
from mainspring_registry.domain.making import Making
from mainspring_registry.domain.quantizations import PEFT
from mainspring_svckit.errors import PreconditionFailed

ADAPTER_FILES = (f"{PEFT}adapter_config.json", f"{PEFT}adapter_model.safetensors")
DEFAULT_DENSITY = 0.5


class MergeMethod(StrEnum):
    """How adapters become one."""

    LINEAR = "LINEAR"
    TIES = "TIES"
    DARE_LINEAR = "DARE_LINEAR"
    DARE_TIES = "DARE_TIES"


@dataclass(frozen=True)
class MergeSource:
    """One adapter and how much of it is taken."""

    model_version: str
    weight: float


@dataclass(frozen=True)
class Merge(Making):
    """The work of making one adapter; see the contract's message of the same name."""

    name: str
    sources: tuple[MergeSource, ...]
    model: str
    method: MergeMethod
    cycle: str
    create_time: datetime
    density: float = DEFAULT_DENSITY
    seed: int = 0
    rank: int = 0
    author: str = ""

    def lineage(self, sources: Sequence[ModelVersion]) -> Lineage:
        """Where the result comes from. Its data is the first source's; what the others learned from, they say."""
        first = sources[0].lineage
        parts = ", ".join(f"{source.weight:g} x {source.model_version}" for source in self.sources)
        return Lineage(
            dataset_version=first.dataset_version,
            dataset_root_sha256=first.dataset_root_sha256,
            origin=f"{self.method.value} of {parts} (density {self.density:g}, seed {self.seed}) by {self.name}",
            merged_from=tuple(source.name for source in sources),
        )


def check_mergeable(sources: Sequence[ModelVersion]) -> None:
    """Raises `PreconditionFailed` unless these are different adapters on one base, with the files that are merged."""
    for source in sources:
        if source.kind is not ModelKind.ADAPTER:
            raise _unfit(source, f"is {source.kind.value}; name versions of adapters")
        lacking = [role for role in ADAPTER_FILES if role not in source.artifacts]
        if lacking:
            raise _unfit(source, f"lacks {', '.join(lacking)}; train it again")
        if source.base_model_version != sources[0].base_model_version:
            message = f"stands on {source.base_model_version}, {sources[0].name} on {sources[0].base_model_version}"
            raise _unfit(source, f"{message}; adapters can be merged on one base only")
    names = [source.name for source in sources]
    for source in sources:
        if names.count(source.name) > 1:
            raise _unfit(source, "is named twice; give it one weight")


def _unfit(source: ModelVersion, why: str) -> PreconditionFailed:
    return PreconditionFailed("NOT_MERGEABLE", f"{source.name} {why}", {"modelVersion": source.name})
