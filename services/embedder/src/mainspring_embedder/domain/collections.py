"""Collections, and the builds of their indexes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mainspring_svckit.states import StateMachine
from mainspring_svckit.values import ArtifactRef, Progress

PROGRESS_UNIT = "chunks"


@dataclass(frozen=True)
class Index:
    """One index of a collection.

    Attributes:
        number: Counts from 1 in the collection.
        storage: Where its chunks are; unique among all collections.
        documents: Documents in it.
        chunks: Chunks in it.
        dimensions: Length of its vectors.
    """

    number: int
    storage: int
    documents: int = 0
    chunks: int = 0
    dimensions: int = 0


@dataclass(frozen=True)
class Collection:
    """A set of documents that is searched through its active index; None while there is none."""

    name: str
    embedding_model_version: str
    create_time: datetime
    indexes: int = 0
    active: Index | None = None
    refresh_time: datetime | None = None

    def with_index(self) -> tuple[Collection, int]:
        """The collection with the number of one more index."""
        return replace(self, indexes=self.indexes + 1), self.indexes + 1

    def refreshed(self, index: Index, now: datetime) -> Collection:
        """The collection searched through another index."""
        return replace(self, active=index, refresh_time=now)


class BuildState(StrEnum):
    """Where a build stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


BUILD_STATES = StateMachine(
    {
        BuildState.PENDING: {BuildState.RUNNING},
        BuildState.RUNNING: {BuildState.PENDING, BuildState.SUCCEEDED, BuildState.FAILED},
        BuildState.SUCCEEDED: set(),
        BuildState.FAILED: set(),
    }
)


@dataclass(frozen=True)
class IndexBuild:
    """The work of making one index.

    Attributes:
        name: Resource name.
        collection: Name of the collection.
        index: Number of the index.
        storage: Where its chunks go.
        documents: JSONL file.
        create_time: When it was asked for.
        state: Where it stands.
        progress: In chunks; its phase tells of lines that were refused.
        error_reason: Set when FAILED.
        error_message: Set when FAILED.
        end_time: When it ended.
    """

    name: str
    collection: str
    index: int
    storage: int
    documents: ArtifactRef
    create_time: datetime
    state: BuildState = BuildState.PENDING
    progress: Progress = field(default_factory=lambda: Progress(unit=PROGRESS_UNIT))
    error_reason: str = ""
    error_message: str = ""
    end_time: datetime | None = None

    def started(self) -> IndexBuild:
        """The build with a worker; one that another worker left behind is simply taken over."""
        if self.state is BuildState.RUNNING:
            return self
        BUILD_STATES.check(self.name, self.state, BuildState.RUNNING)
        return replace(self, state=BuildState.RUNNING)

    def advanced(self, progress: Progress) -> IndexBuild:
        """The build a step further."""
        return replace(self, progress=progress)

    def succeeded(self, progress: Progress, now: datetime) -> IndexBuild:
        """The build whose index is searched."""
        BUILD_STATES.check(self.name, self.state, BuildState.SUCCEEDED)
        return replace(self, state=BuildState.SUCCEEDED, progress=progress, end_time=now)

    def failed(self, reason: str, message: str, now: datetime) -> IndexBuild:
        """The build with the reason why there is no index."""
        BUILD_STATES.check(self.name, self.state, BuildState.FAILED)
        return replace(self, state=BuildState.FAILED, error_reason=reason, error_message=message, end_time=now)
