"""What data-ingest says of the data with which the graph begins."""

from __future__ import annotations

from dataclasses import dataclass

from mainspring_svckit.values import Message, Progress


@dataclass(frozen=True)
class DataSource:
    """A file that a dataset version was read from; all but its name is known to data-ingest only."""

    name: str
    filename: str = ""
    media_type: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class DatasetFacts:
    """How a dataset version came to be; `supersedes` is set where an erasure made it, `recipe_version` is empty where
    an older release made it.
    """

    version: str
    ingestion: str
    recipe: str
    sources: tuple[DataSource, ...]
    supersedes: str = ""
    recipe_version: str = ""


@dataclass(frozen=True)
class SourcedRow:
    """A row that was learned from, and where its record stands: which source, and on which line."""

    row_id: str
    split: str
    messages: tuple[Message, ...]
    source_index: int
    line: int


@dataclass(frozen=True)
class RowsWish:
    """Which rows of the data on a walk are wanted; `dataset_version` is empty for the nearest ones."""

    dataset_version: str
    page_size: int
    page_token: str


@dataclass(frozen=True)
class ShownData:
    """Sources and one page of rows of a dataset version; the error says why there are no rows."""

    version: str
    sources: tuple[DataSource, ...] = ()
    rows: tuple[SourcedRow, ...] = ()
    next_page_token: str = ""
    error_reason: str = ""
    error_message: str = ""


@dataclass(frozen=True)
class Sought:
    """What is looked for in all data; exactly one of the three is set."""

    text: str = ""
    row_ids: tuple[str, ...] = ()
    source_sha256: str = ""


@dataclass(frozen=True)
class TracedVersion:
    """A dataset version in which something was found; `presumed` where nobody can look any more."""

    version: str
    rows: int = 0
    refused_rows: int = 0
    sources: int = 0
    presumed: bool = False

    @property
    def taught(self) -> bool:
        """Whether somebody may have learned it from the version: refused rows teach nobody."""
        return bool(self.rows) or self.presumed


@dataclass(frozen=True)
class Search:
    """A search of data-ingest as it is now."""

    name: str
    progress: Progress
    ended: bool = False
    searched: int = 0
    versions: tuple[TracedVersion, ...] = ()
