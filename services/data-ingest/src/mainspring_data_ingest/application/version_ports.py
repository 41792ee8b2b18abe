"""What use cases of published versions need from outside, beyond `Ports`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mainspring_data_ingest.application.ports import RefinedShard, StepFiles
from mainspring_data_ingest.domain.comparisons import ComparisonCounts
from mainspring_data_ingest.domain.datasets import Shard
from mainspring_data_ingest.domain.erasures import Selector
from mainspring_data_ingest.domain.ingestions import Source
from mainspring_data_ingest.domain.manifests import Manifest
from mainspring_data_ingest.domain.measurements import Measurement
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.report import TextReport
from mainspring_svckit.values import ArtifactRef

MAX_PAGE_BYTES = 4 << 20
"""Where a page of rows ends early."""


@dataclass(frozen=True)
class Compared:
    """What a comparison found, not stored yet; `changes` are JSON lines, None when there is none."""

    counts: ComparisonCounts
    changes: Path | None


@dataclass(frozen=True)
class LeftTexts:
    """Texts of a version that an erasure looked through, for the report of its successor.

    Attributes:
        erased_changed: Erased rows that steps had changed.
        before: All rows.
        after: The rows that are left.
        answers_before: A sample of answers of all rows.
        answers_after: A sample of answers of the rows that are left.
        reference: A sample of answers of the recipe's reference examples, or of the evaluation set that it keeps out.
        embedding_model: Model version whose vectors the report shall follow from; empty for lexical ones.
    """

    erased_changed: int
    before: TextReport
    after: TextReport
    answers_before: list[str]
    answers_after: list[str]
    reference: list[str]
    embedding_model: str


@dataclass(frozen=True)
class Sought:
    """What an erasure looks for in a version.

    Attributes:
        selector: It.
        erasure: The erasure.
        ingestion: The ingestion whose rows the version holds.
        recipe: The recipe that made the version; None when nothing shall be said of its texts.
        references: Files of the recipe's reference examples, or of the evaluation set that it keeps out, by the
            position of that part.
    """

    selector: Selector
    erasure: str
    ingestion: str
    recipe: IngestionRecipe | None
    references: Mapping[int, StepFiles]


@dataclass(frozen=True)
class Leftovers:
    """What an erasure leaves of a version, not stored yet.

    Attributes:
        erased_rows: Rows in which the selector was found.
        erased_refused: Refused rows in which it was found, or whose source goes as a whole, by reason.
        affected: Positions of the sources that held it.
        shards: The other rows; those of sources that go as a whole have moved up.
        refused: The other refused rows, and the erased ones without what they said; None when there is none.
        residues: What is left of each affected source as rows of ours, by its position; none for one that goes as a
            whole, since no row of it is left.
        row_ids: Ids of the erased rows.
        texts: What the texts were and are; None when no recipe was given.
        changed: Which of the other rows steps had changed; None when none or nobody knows.
    """

    erased_rows: int
    erased_refused: dict[RefusalReason, int]
    affected: tuple[int, ...]
    shards: tuple[RefinedShard, ...]
    refused: Path | None
    residues: dict[int, Path]
    row_ids: tuple[str, ...] = ()
    texts: LeftTexts | None = None
    changed: Path | None = None

    @property
    def found(self) -> bool:
        """Whether there was anything to erase."""
        return bool(self.erased_rows or self.erased_refused or self.affected)


class ModelLineage(Protocol):
    """Knows which models learned from what."""

    async def saw(self, dataset_version: str) -> list[str]:
        """Model versions that learned from a dataset version, and releases of them, by their names.

        Raises:
            Unavailable: The registry cannot be asked now.
        """
        ...


class JudgedContent(Protocol):
    """What people said of answers, kept elsewhere."""

    async def erase(self, project: str, text: str) -> tuple[int, int]:
        """Has it forgotten wherever a text is found; the numbers of answers and of judgements.

        Raises:
            Unavailable: Feedback cannot be asked now.
        """
        ...


class ShardTools(Protocol):
    """Reads and writes Parquet shards, in a process of its own.

    Raises:
        NotFound: The store lacks a shard.
        PreconditionFailed: A shard is damaged.
        InsufficientStorage: The disk is full.
        Unavailable: It could not be done now.
    """

    async def rows(self, project: str, shards: Sequence[Shard], skip: int, count: int) -> list[dict[str, Any]]:
        """At most `count` rows after `skip` rows, in order; fewer when they would be more than `MAX_PAGE_BYTES`."""
        ...

    async def columns(self, project: str, shards: Sequence[Shard]) -> tuple[str, ...]:
        """The columns of a version, which are the same in all of its shards."""
        ...

    def compare(self, project: str, base: Manifest, target: Manifest) -> AbstractAsyncContextManager[Compared]:
        """Compares two versions row by row; the file is removed at the end of the block."""
        ...

    def json_lines(self, project: str, shard: Shard) -> AbstractAsyncContextManager[Path]:
        """A shard's rows as JSON lines; the file is removed at the end of the block."""
        ...

    def without(
        self, project: str, manifest: Manifest, sources: Sequence[Source], sought: Sought
    ) -> AbstractAsyncContextManager[Leftovers]:
        """What is left of a version without what is looked for; files are removed at the end of the block.

        Raises:
            PreconditionFailed: A shard does not hold the rows that the manifest names.
        """
        ...

    async def holds(self, project: str, artifact: ArtifactRef, text: str) -> bool | None:
        """Whether a text is found in a file; None when it is not, and the file cannot be read as data."""
        ...

    async def sample(self, project: str, shards: Sequence[Shard], count: int) -> list[tuple[str, str]]:
        """Answer, and whole text, of the `count` rows with the smallest ids; texts are cut at 1,000 characters."""
        ...

    async def measure(
        self,
        answers: list[str],
        texts: list[str],
        reference: list[str],
        vectors: list[list[float]] | None,
        model: str,
    ) -> Measurement:
        """Measures a sample; `vectors` are those of `texts` and then of `reference`, None for lexical ones."""
        ...

    def fetched(self, project: str, artifact: ArtifactRef) -> AbstractAsyncContextManager[Path]:
        """A file of the store on the disk, verified; it is removed at the end of the block."""
        ...
