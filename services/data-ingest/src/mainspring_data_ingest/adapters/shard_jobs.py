"""What the service and its process for shards tell each other; apart from both, since only the process needs Arrow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from mainspring_data_ingest.adapters.jobs import HeldOutFiles, SourceFile
from mainspring_data_ingest.application.version_ports import Leftovers
from mainspring_data_ingest.domain.comparisons import ComparisonCounts
from mainspring_data_ingest.domain.erasures import Selector
from mainspring_data_ingest.domain.measurements import Measurement
from mainspring_data_ingest.domain.recipes import IngestionRecipe


@dataclass(frozen=True)
class SideShard:
    """One shard of a version on the local disk."""

    path: Path
    split: str
    rows: int
    rows_sha256: str


@dataclass(frozen=True)
class Side:
    """One of two versions.

    Attributes:
        shards: Its rows.
        sources: Digest of each source, by its position.
    """

    shards: tuple[SideShard, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ReadRows:
    """Writes rows to `rows.jsonl`: at most `count` after `skip`, no more than `max_bytes`; their split when wanted."""

    shards: tuple[SideShard, ...]
    skip: int
    count: int
    max_bytes: int
    with_split: bool
    kind: Literal["read_rows"] = "read_rows"


@dataclass(frozen=True)
class NameColumns:
    """Writes the names of a shard's columns to `result.json`."""

    path: Path
    kind: Literal["columns"] = "columns"


@dataclass(frozen=True)
class CompareSides:
    """Writes the differences of two versions to `changes.jsonl`, and their counts to `result.json`."""

    base: Side
    target: Side
    kind: Literal["compare"] = "compare"


@dataclass(frozen=True)
class EraseRows:
    """Looks for a selector in a version and writes what is left of it; says in `result.json` what that is.

    Attributes:
        side: The version's rows.
        refused: Its refused rows; None when there are none.
        sources: Its sources.
        selector: What is looked for.
        erasure: Who looks for it.
        ingestion: The ingestion whose rows the version holds.
        recipe: The recipe that made it; None when that is not known.
        held_out: Files of the evaluation set that the recipe keeps out first, at the place of its step.
        changed: Which of its rows steps have changed; None when none or nobody knows.
    """

    side: Side
    refused: Path | None
    sources: tuple[SourceFile, ...]
    selector: Selector
    erasure: str
    ingestion: str
    recipe: IngestionRecipe | None = None
    held_out: HeldOutFiles = ()
    changed: Path | None = None
    kind: Literal["erase"] = "erase"


@dataclass(frozen=True)
class FindText:
    """Says in `result.json` whether a text is in a file; null when it is not, and the file cannot be read as data."""

    path: Path
    name: str
    text: str
    kind: Literal["find"] = "find"


@dataclass(frozen=True)
class SampleRows:
    """Writes answer and text of the `count` rows with the smallest ids to `sample.json`."""

    shards: tuple[SideShard, ...]
    count: int
    kind: Literal["sample"] = "sample"


@dataclass(frozen=True)
class MeasureTexts:
    """Writes a measurement to `result.json`; see `measuring.measure`."""

    answers: list[str]
    texts: list[str]
    reference: list[str]
    vectors: list[list[float]] | None
    model: str
    kind: Literal["measure"] = "measure"


ShardJob = ReadRows | NameColumns | CompareSides | EraseRows | FindText | SampleRows | MeasureTexts
SHARD_JOB: TypeAdapter[ShardJob] = TypeAdapter(ShardJob)
COUNTS = TypeAdapter(ComparisonCounts)
LEFTOVERS = TypeAdapter(Leftovers)
MEASUREMENT = TypeAdapter(Measurement)
