"""The work of making one dataset version."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_svckit.states import StateMachine
from mainspring_svckit.values import ArtifactRef, Progress


class SourceFormat(StrEnum):
    """How a source's bytes are read."""

    JSONL = "JSONL"
    CSV = "CSV"
    TSV = "TSV"
    JSON = "JSON"
    PARQUET = "PARQUET"
    ARROW = "ARROW"
    TEXT = "TEXT"
    MARKDOWN = "MARKDOWN"
    HTML = "HTML"
    PDF = "PDF"
    DOCX = "DOCX"
    PYTHON = "PYTHON"
    ZIP = "ZIP"


SYNTHETIC = "application/vnd.mainspring.synthetic+jsonl"
"""Media type of sources that a model made; it marks them in ingestions, versions and manifests."""


@dataclass(frozen=True)
class Source:
    """One file to read; `columns` where they differ from the recipe's, `origin` says where the bytes came from."""

    artifact: ArtifactRef
    format: SourceFormat
    columns: ColumnMapping | None = None
    origin: str = ""

    @property
    def synthetic(self) -> bool:
        """Whether a model made its records; then they are learned from, and never measured on."""
        return self.artifact.media_type == SYNTHETIC


class IngestionState(StrEnum):
    """Where an ingestion stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


INGESTION_STATES = StateMachine(
    {
        IngestionState.PENDING: {IngestionState.RUNNING, IngestionState.CANCELLED},
        IngestionState.RUNNING: {
            IngestionState.PENDING,
            IngestionState.SUCCEEDED,
            IngestionState.FAILED,
            IngestionState.CANCELLED,
        },
        IngestionState.SUCCEEDED: set(),
        IngestionState.FAILED: set(),
        IngestionState.CANCELLED: set(),
    }
)


WAITING = Progress(unit="rows", phase="waiting")


@dataclass(frozen=True)
class Ingestion:
    """An ingestion.

    Attributes:
        name: Resource name.
        recipe: The recipe as it stood when the ingestion was asked for.
        sources: What is read, in order.
        cycle: Turn of the loop.
        create_time: When it was asked for.
        added: 0 for an ingestion of exactly its sources. Otherwise it adds its last so many sources to the dataset's
            newest version, whichever that is when it publishes.
        base_version: The version that it adds to; empty when there is none.
    """

    name: str
    recipe: IngestionRecipe
    sources: tuple[Source, ...]
    cycle: str
    create_time: datetime
    added: int = 0
    base_version: str = ""
    state: IngestionState = IngestionState.PENDING
    progress: Progress = WAITING
    error_reason: str = ""
    error_message: str = ""
    dataset_version: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None

    def started(self, now: datetime) -> Ingestion:
        """The ingestion with a worker; one that another worker left behind is taken over from the beginning."""
        if self.state is not IngestionState.RUNNING:
            INGESTION_STATES.check(self.name, self.state, IngestionState.RUNNING)
        progress = Progress(unit="rows", phase="fetching")
        return replace(self, state=IngestionState.RUNNING, progress=progress, start_time=self.start_time or now)

    def rebased(self, version: str, sources: tuple[Source, ...]) -> Ingestion:
        """The ingestion adding to another version, made of `sources`."""
        return replace(self, base_version=version, sources=(*sources, *self.sources[-self.added :]))

    def succeeded(self, dataset_version: str, rows: int, now: datetime) -> Ingestion:
        """The ingestion with its result, after reading so many rows."""
        INGESTION_STATES.check(self.name, self.state, IngestionState.SUCCEEDED)
        return replace(
            self,
            state=IngestionState.SUCCEEDED,
            dataset_version=dataset_version,
            progress=Progress(done=rows, total=rows, unit="rows", phase="published", remaining_s=0.0),
            end_time=now,
        )

    def failed(self, reason: str, message: str, now: datetime) -> Ingestion:
        """The ingestion with the reason why it cannot be."""
        INGESTION_STATES.check(self.name, self.state, IngestionState.FAILED)
        return replace(self, state=IngestionState.FAILED, error_reason=reason, error_message=message, end_time=now)

    def cancelled(self, now: datetime) -> Ingestion:
        """The ingestion after somebody cancelled it."""
        INGESTION_STATES.check(self.name, self.state, IngestionState.CANCELLED)
        return replace(self, state=IngestionState.CANCELLED, end_time=now)
