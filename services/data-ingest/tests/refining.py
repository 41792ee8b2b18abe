"""Rows through a recipe's steps, in this process."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mainspring_data_ingest.adapters.jobs import Job, SourceFile
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.adapters.steps.base import Vectors
from mainspring_data_ingest.application.ports import Refined
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe, SplitShares
from mainspring_data_ingest.domain.rows import Draft, Message
from mainspring_data_ingest.domain.steps import RecipeStep

PAIRS = ColumnMapping(input_column="mr", target_column="ref")
SENTENCE = "The Eagle is a cheap coffee shop near Burger King, and families with children are welcome there."


def draft(answer: str, prompt: str = "q") -> Draft:
    return Draft((Message("user", prompt), Message("assistant", answer)))


def refined(
    folder: Path,
    rows: list[Any],
    *recipe_steps: RecipeStep,
    held_out: Any = (),
    split: SplitShares | None = None,
    vectors: Vectors | None = None,
    report_model: str = "",
) -> Refined:
    folder.mkdir(exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = IngestionRecipe(
        "projects/p/ingestionRecipes/r",
        "projects/p/datasets/d",
        PAIRS,
        split=split or SplitShares(),
        steps=recipe_steps,
        report_embedding_model_version=report_model,
    )
    job = Job(recipe, (SourceFile(path, "rows", SourceFormat.JSONL, None),), held_out=tuple(held_out))
    return refine(job, folder, vectors=vectors)


def rows_of(made: Refined) -> list[dict[str, Any]]:
    return [
        {**row, "split": shard.split.value} for shard in made.shards for row in pq.read_table(shard.path).to_pylist()
    ]


def kept(made: Refined) -> dict[int, str]:
    return {row["line"]: row["messages"][-1]["content"] for row in rows_of(made)}


def refused_rows(made: Refined) -> list[dict[str, Any]]:
    return [json.loads(line) for line in made.refused.read_text().splitlines()] if made.refused else []


def refused(made: Refined) -> dict[int, tuple[str, str]]:
    return {row["line"]: (row["reason"], row["detail"]) for row in refused_rows(made)}


def refused_in(made: Refined) -> dict[int, tuple[str, str, int]]:
    """Reason, and name and number of the step, by line."""
    return {row["line"]: (row["reason"], row["step"], row["step_number"]) for row in refused_rows(made)}


def changed_in(made: Refined) -> dict[int, list[tuple[str, int]]]:
    """Names and numbers of the steps that changed a row, by line."""
    lines = made.changed.read_text().splitlines() if made.changed else []
    return {
        row["line"]: [(step["step"], step["step_number"]) for step in row["steps"]] for row in map(json.loads, lines)
    }
