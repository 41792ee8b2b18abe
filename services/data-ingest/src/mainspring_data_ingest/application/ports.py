"""What data-ingest's use cases need from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mainspring_data_ingest.domain.comparisons import Comparison
from mainspring_data_ingest.domain.datasets import Dataset, DatasetVersion, Tally
from mainspring_data_ingest.domain.erasures import Erasure
from mainspring_data_ingest.domain.ingestions import Ingestion
from mainspring_data_ingest.domain.recipes import IngestionRecipe, RecipeVersion
from mainspring_data_ingest.domain.records import Record
from mainspring_data_ingest.domain.report import Report
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.splits import Split
from mainspring_data_ingest.domain.uploads import Upload
from mainspring_svckit.clock import Clock
from mainspring_svckit.ports import Artifacts, Notifier, Transactions, Work
from mainspring_svckit.repository import Repository
from mainspring_svckit.values import ArtifactRef, Progress


class Announcements(Protocol):
    """Tells other services what happened; joins the ambient transaction."""

    async def version_published(self, version: DatasetVersion) -> None:
        """A dataset has a new version. Announcements of one dataset go out in the order in which they are made."""
        ...


class FileStore(Artifacts, Protocol):
    """The artifact store, large files included."""

    async def put_file(
        self,
        project: str,
        path: Path,
        *,
        media_type: str = "",
        filename: str = "",
        before: Callable[[ArtifactRef], Awaitable[None]] | None = None,
    ) -> ArtifactRef:
        """Stores a file. Bytes that are stored are told to `before` first."""
        ...

    async def put_stream(
        self,
        project: str,
        chunks: AsyncIterable[bytes],
        *,
        max_bytes: int,
        media_type: str = "",
        filename: str = "",
        before: Callable[[ArtifactRef], Awaitable[None]] | None = None,
    ) -> ArtifactRef:
        """Stores a stream; raises `QuotaExceeded` when there are more than `max_bytes`, and keeps nothing then. Bytes
        that are stored are told to `before` first.
        """
        ...

    async def discard(self, project: str, artifact: ArtifactRef) -> None:
        """Removes the bytes; an artifact that is not there is fine."""
        ...

    def stream(self, project: str, artifact: ArtifactRef) -> AsyncIterator[bytes]:
        """Reads the bytes in order; raises after the last chunk when they are not those that the digest names."""
        ...


class SourceReader(Protocol):
    """One open source."""

    def records(self) -> Iterator[Record]:
        """Its records, each once and in order, in memory that does not grow with the file.

        Raises:
            InvalidInput: The source as a whole cannot be read.
        """
        ...


class Step(Protocol):
    """One step of a recipe that looks at one row at a time; any number of them may work beside each other.

    Attributes:
        name: Its kind, as recipes name it.
        found: What it found, counted by name, for the report.
        about: What it knows from the beginning, by name, for the report.
    """

    name: str
    found: Counter[str]
    about: dict[str, int]

    def apply(self, draft: Draft) -> Draft:
        """The draft after the step; the same object when nothing changed.

        Raises:
            RowRefused: The record does not pass.
        """
        ...


@dataclass(frozen=True)
class RefinedShard:
    """A Parquet file, not stored yet; the attributes are those of `Shard`."""

    split: Split
    path: Path
    rows: int
    rows_sha256: str


@dataclass(frozen=True)
class Refined:
    """What a refiner made of an ingestion's sources.

    Attributes:
        shards: The rows, split by split.
        refused: JSON lines, one a refused record; None when there is none.
        tally: What became of the input rows.
        report: The same in detail.
        changed: JSON lines, one a row that steps have changed; None when there is none.
    """

    shards: tuple[RefinedShard, ...]
    refused: Path | None
    tally: Tally
    report: Report
    changed: Path | None = None


@dataclass(frozen=True)
class HeldOut:
    """A split of a version that a step keeps out; `manifest` is that of the version."""

    dataset_version: str
    split: Split
    manifest: ArtifactRef


@dataclass(frozen=True)
class StepFiles:
    """What a part of a recipe needs besides its parameters: a word list, a tokenizer, an evaluation set or reference
    examples.
    """

    file: ArtifactRef | None = None
    held_out: tuple[HeldOut, ...] = ()


class Tokenizers(Protocol):
    """Knows the tokenizers of registered models."""

    async def of(self, model_version: str) -> ArtifactRef:
        """The `tokenizer.json` of a model version, or of its base.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: MODEL_WITHOUT_TOKENIZER.
            Unavailable: The registry cannot be asked now.
        """
        ...


class Suites(Protocol):
    """Knows what evaluation suites ask."""

    async def splits_of(self, suite_version: str) -> tuple[tuple[str, Split], ...]:
        """The dataset versions that a version of a suite takes items from, each with the split.

        Raises:
            NotFound: There is no such version.
            Unavailable: The evaluator cannot be asked now.
        """
        ...


OnProgress = Callable[[Progress], Awaitable[None]]


class Refiner(Protocol):
    """Reads sources and writes rows, in a process of its own."""

    def refine(
        self, work: Ingestion, files: Mapping[int, StepFiles], on_progress: OnProgress
    ) -> AbstractAsyncContextManager[Refined]:
        """The files made of an ingestion's sources; they are removed at the end of the block.

        Args:
            work: The ingestion.
            files: What the recipe's parts need, by their position.
            on_progress: Hears how far it is.

        Raises:
            InvalidInput: A source cannot be read, or nothing of it can be kept; the reason says why.
            NotFound: The store lacks a source.
            InsufficientStorage: The disk is full.
            Unavailable: It could not be done now.
        """
        ...


class Plotter(Protocol):
    """Draws reports."""

    async def draw(self, title: str, report: Report) -> bytes:
        """A PNG picture.

        Raises:
            Unavailable: It could not be drawn now.
        """
        ...


@dataclass(frozen=True)
class Ports:
    """Everything the use cases need; made once, in `main.py`."""

    transactions: Transactions
    recipes: Repository[IngestionRecipe]
    recipe_versions: Repository[RecipeVersion]
    ingestions: Repository[Ingestion]
    datasets: Repository[Dataset]
    versions: Repository[DatasetVersion]
    comparisons: Repository[Comparison]
    erasures: Repository[Erasure]
    uploads: Repository[Upload]
    announcements: Announcements
    files: FileStore
    work: Work
    notifier: Notifier
    clock: Clock
