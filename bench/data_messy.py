"""What cleaning finds in dirty files of which the truth is known, line by line."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.data_dirt import INPUT, TARGET, Dirt
from bench.figures import Bar, Figure, Result
from mainspring_data_ingest.adapters.jobs import Job, SourceFile
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.steps import (
    Decontamination,
    LanguageFilter,
    LengthFilter,
    MarkupToText,
    NearDuplicates,
    PersonalData,
    QualityFilter,
    RecipeStep,
    TextRepair,
)
from mainspring_svckit.values import ArtifactRef

SEEDS = (11, 12, 13)
BARS = {
    "exact_duplicate": 1.0,
    "near_duplicate": 0.97,
    "eval_contamination": 1.0,
    "invalid": 1.0,
    "mojibake": 0.97,
    "html": 0.99,
    "pii": 0.99,
    "wrong_language": 0.97,
    "low_quality": 0.95,
}
CLEAN_BAR = 0.003
_DUPLICATES = {"EXACT_DUPLICATE", "NEAR_DUPLICATE", "EVALUATION_LEAK"}
_EXPECTED = {
    "exact_duplicate": _DUPLICATES,
    "near_duplicate": _DUPLICATES,
    "eval_contamination": {"EVALUATION_LEAK"},
    "invalid": {"NOT_TEXT", "EMPTY", "MISSING_COLUMN", "UNREADABLE"},
    "wrong_language": {"WRONG_LANGUAGE"},
    "low_quality": {"LOW_QUALITY", "WRONG_LENGTH", "WRONG_LANGUAGE"},
}
_COLUMNS = ColumnMapping(input_column=INPUT, target_column=TARGET)
_STEPS: tuple[RecipeStep, ...] = (
    TextRepair(),
    MarkupToText(),
    LengthFilter(min_words=2),
    QualityFilter(),
    LanguageFilter(("en",)),
    PersonalData(),
    Decontamination(file=ArtifactRef("0" * 64, 1)),
    NearDuplicates(),
)


@dataclass(frozen=True)
class _Outcome:
    """Rows of a kind, those treated as they should be, and those that should not have been."""

    right: Counter[str]
    rows: Counter[str]
    wrong: list[dict[str, Any]]


async def measure(folder: Path, messy: Path | None, table: Path | None) -> Result:
    """Measures on a dirty file with its truth, and on dirt that seeds put into a table; either may be missing. Without
    both it is skipped: rows made by a seed are no text of a language, which cleaning tells from junk.
    """
    result = Result("data-messy")
    if messy is not None:
        _tell(result, "given", await asyncio.to_thread(_outcome, messy))
    for seed in SEEDS if table is not None else ():
        assert table is not None
        made = folder / f"dirt-{seed}"
        made.mkdir()
        Dirt(table, seed).write(made)
        _tell(result, f"seed {seed}", await asyncio.to_thread(_outcome, made))
    if not result.figures:
        result.skipped = (
            "name a table of the columns mr and ref to put dirt into by MAINSPRING_E2E=FILE (or --data), or a folder of"
            " records.jsonl, truth.jsonl and eval.jsonl by MAINSPRING_MESSY=FOLDER (or --messy)"
        )
    return result


def _tell(result: Result, name: str, outcome: _Outcome) -> None:
    for kind, bar in BARS.items():
        if rows := outcome.rows[kind]:
            figure = Figure(f"{name}: {kind}", "", outcome.right[kind] / rows, bar=Bar(bar, True), note=f"{rows} rows")
            result.figures.append(figure)
    clean = outcome.rows["clean"]
    refused = (clean - outcome.right["clean"]) / clean
    result.figures.append(Figure(f"{name}: clean rows refused", "", refused, bar=Bar(CLEAN_BAR), note=f"{clean} rows"))
    result.details[name] = outcome.wrong


def _outcome(folder: Path) -> _Outcome:
    with tempfile.TemporaryDirectory() as scratch:
        kept, refused = _refined(folder, Path(scratch))
    right, rows, wrong = Counter[str](), Counter[str](), list[dict[str, Any]]()
    texts = set(kept.values())
    with (folder / "truth.jsonl").open() as file:
        for truth in map(json.loads, file):
            line, kind = truth["line"], truth["kind"]
            rows[kind] += 1
            if _is_right(truth, kept.get(line), refused.get(line, ""), texts):
                right[kind] += 1
            else:
                wrong.append({**truth, "kept": kept.get(line), "refused": refused.get(line)})
    return _Outcome(right, rows, wrong)


def _is_right(truth: dict[str, Any], kept: str | None, refused: str, texts: set[str]) -> bool:
    kind = truth["kind"]
    if kind == "clean":  # A clean row may be like another clean one, or be in the evaluation set by chance.
        return kept is not None or refused in _DUPLICATES
    if kind == "pii":
        return truth["value"] not in (kept or "")
    if "clean" in truth:  # Repaired, it may be what another row says; then that one stays.
        return kept == truth["clean"] or (kept is None and refused in _DUPLICATES and truth["clean"] in texts)
    return refused in _EXPECTED[kind]


def _refined(folder: Path, scratch: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Kept texts and reasons of refusal by line."""

    def source(name: str) -> SourceFile:
        return SourceFile(folder / name, name, SourceFormat.JSONL, _COLUMNS)

    recipe = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", _COLUMNS, steps=_STEPS)
    held_out = tuple((source("eval.jsonl"),) if isinstance(step, Decontamination) else () for step in _STEPS)
    made = refine(Job(recipe, (source("records.jsonl"),), held_out=held_out), scratch)
    rows: list[dict[str, Any]] = [row for shard in made.shards for row in pq.read_table(shard.path).to_pylist()]
    kept = {row["line"]: row["messages"][-1]["content"] for row in rows}
    lines = made.refused.read_text().splitlines() if made.refused is not None else []
    return kept, {row["line"]: row["reason"] for row in map(json.loads, lines)}
