"""Making one adapter of several in the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mainspring_registry.domain.catalogue import Lineage, ModelKind, ModelVersion
from mainspring_registry.domain.quantizations import PEFT
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.states import StateMachine

ADAPTER_FILES = (f"{PEFT}adapter_config.json", f"{PEFT}adapter_model.safetensors")
DEFAULT_DENSITY = 0.5


class MergeMethod(StrEnum):
    """How adapters become one."""

    LINEAR = "LINEAR"
    TIES = "TIES"
    DARE_LINEAR = "DARE_LINEAR"
    DARE_TIES = "DARE_TIES"


class MergeState(StrEnum):
    """Where the work stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


MERGE_STATES = StateMachine(
    {
        MergeState.PENDING: {MergeState.RUNNING},
        MergeState.RUNNING: {MergeState.PENDING, MergeState.SUCCEEDED, MergeState.FAILED},
        MergeState.SUCCEEDED: set(),
        MergeState.FAILED: set(),
    }
)


@dataclass(frozen=True)
class MergeSource:
    """One adapter and how much of it is taken."""

    model_version: str
    weight: float


@dataclass(frozen=True)
class Merge:
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
    state: MergeState = MergeState.PENDING
    model_version: str = ""
    error_reason: str = ""
    error_message: str = ""
    end_time: datetime | None = None

    def started(self) -> Merge:
        """The work with a worker; one that another worker left behind is simply taken over."""
        if self.state is MergeState.RUNNING:
            return self
        MERGE_STATES.check(self.name, self.state, MergeState.RUNNING)
        return replace(self, state=MergeState.RUNNING)

    def succeeded(self, model_version: str, now: datetime) -> Merge:
        """The work with its result."""
        MERGE_STATES.check(self.name, self.state, MergeState.SUCCEEDED)
        return replace(self, state=MergeState.SUCCEEDED, model_version=model_version, end_time=now)

    def failed(self, reason: str, message: str, now: datetime) -> Merge:
        """The work with the reason why it cannot be."""
        MERGE_STATES.check(self.name, self.state, MergeState.FAILED)
        return replace(self, state=MergeState.FAILED, error_reason=reason, error_message=message, end_time=now)

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
