"""What the service and its refining process tell each other; apart from both, since only the process needs Arrow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from mainspring_data_ingest.application.ports import Refined
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.previews import Preview
from mainspring_data_ingest.domain.recipes import IngestionRecipe

ROWS_PER_SHARD = 50_000
"""Part of what a version is: another number would give the same rows another root digest."""
REFUSED = 2
"""Exit status with which the process says why it will never succeed."""
CLUSTER_UNREACHABLE = "REFINING_CLUSTER_UNREACHABLE"
"""The reason that passes."""


@dataclass(frozen=True)
class SourceFile:
    """A source on the local disk; `title` names it in messages, `name` is what its owner calls it. A model made the
    `synthetic` ones.
    """

    path: Path
    title: str
    format: SourceFormat
    columns: ColumnMapping | None
    name: str = ""
    synthetic: bool = False


HeldOutFiles = tuple[tuple[SourceFile, ...], ...]
"""Files of the evaluation set of each of a recipe's steps; none for a step without one. After them, where the recipe
names some, those of its reference examples.
"""


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        recipe: The recipe.
        sources: What to read, in order.
        rows_per_shard: Most rows of one shard.
        held_out: Files of evaluation sets, and of reference examples.
        processes: Processes that work at the same time; 0 for as many as there are processors.
        ray_address: The Ray cluster that refines; none when processes of this machine do.
        memory_bytes: Memory that each process may take; 0 for any.
    """

    recipe: IngestionRecipe
    sources: tuple[SourceFile, ...]
    rows_per_shard: int = ROWS_PER_SHARD
    held_out: HeldOutFiles = ()
    processes: int = 0
    ray_address: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True)
class PreviewJob:
    """What to look into.

    Attributes:
        path: Where the source is.
        name: What its owner calls it.
        format: How to read it; None to recognise it.
        columns: Where the text is; None to go by the shape.
        shown: Records to return.
        memory_bytes: Memory that the process may take; 0 for any.
    """

    path: Path
    name: str
    format: SourceFormat | None
    columns: ColumnMapping | None
    shown: int
    memory_bytes: int = 0


JOB = TypeAdapter(Job)
PREVIEW_JOB = TypeAdapter(PreviewJob)
PREVIEW = TypeAdapter(Preview)
RESULT = TypeAdapter(Refined)
