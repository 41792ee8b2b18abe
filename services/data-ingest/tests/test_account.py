"""The account of every row adds up, whatever comes in and whatever the recipe does."""

import io
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainspring_data_ingest.adapters.jobs import Job, SourceFile
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.steps import LengthFilter, MarkupToText, NearDuplicates, RecipeStep, TextRepair
from mainspring_svckit.errors import InvalidInput

COLUMNS = ColumnMapping(input_column="q", target_column="a")
TEXT = st.sampled_from(
    ["", "yes", "no way", "<b>bold</b> word", "cafÃ©", "one two three four five six seven", "y" * 50]
)
RECORD = st.one_of(
    st.fixed_dictionaries({"q": TEXT, "a": TEXT}).map(json.dumps),
    st.sampled_from(["{broken", '{"q": "only"}', '{"q": 1, "a": "x"}', "[]"]),
)
KNOWN = [TextRepair(), MarkupToText(), LengthFilter(max_words=5), LengthFilter(min_characters=3), NearDuplicates()]
STEPS: st.SearchStrategy[list[RecipeStep]] = st.lists(st.sampled_from(KNOWN), max_size=4, unique=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(RECORD, min_size=1, max_size=30), STEPS)
def test_b9_each_input_row_ends_in_exactly_one_place_and_the_counts_add_up(
    records: list[str], steps: list[RecipeStep]
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.jsonl"
        source.write_text("\n".join(records) + "\n")
        recipe = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", COLUMNS, steps=tuple(steps))
        job = Job(recipe, (SourceFile(source, "source 0", SourceFormat.JSONL, None),), processes=1)
        try:
            done = refine(job, folder)
        except InvalidInput as err:
            assert err.reason in {"NO_ROWS_KEPT", "SOURCE_UNREADABLE", "SOURCE_LACKS_COLUMN"}
            return
        kept = [row for shard in done.shards for row in pq.read_table(shard.path).to_pylist()]
        lines = done.refused.read_bytes().splitlines() if done.refused is not None else []
        refused: list[dict[str, Any]] = [json.loads(line) for line in lines]
    report = done.report
    # Every line is in one place: a row of one split, or a refused row that says why.
    assert sorted([row["line"] for row in kept] + [row["line"] for row in refused]) == list(range(1, len(records) + 1))
    assert report.input_rows == len(records) == done.tally.input_rows
    assert report.input_rows == report.kept_unchanged + report.kept_changed + sum(report.refused.values())
    assert Counter(row["reason"] for row in refused) == Counter(report.refused)
    assert all(row["detail"] for row in refused)
    assert report.before.rows >= report.after.rows == len(kept)
    # What reaches a step has passed the one before it.
    reached = report.before.rows
    for step in report.steps:
        if step.step != "near_duplicates":  # Duplicates are compared when all rows are known.
            assert step.passed + sum(step.refused.values()) == reached
            assert step.changed <= step.passed
            reached = step.passed
    assert report.kept_changed <= sum(step.changed for step in report.steps)


def parquet(*rows: dict[str, str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


FINE = b'{"q": "fine", "a": "one"}\n'


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (SourceFormat.JSONL, FINE + b'{"q": "a\\u0000b", "a": "x"}\n' + FINE, "NOT_TEXT"),
        (SourceFormat.JSONL, FINE + b'{"q": "a\x00b", "a": "x"}\n' + FINE, "UNREADABLE"),
        (SourceFormat.JSON, b"[" + FINE + b',{"q": "a\x00b", "a": "x"},' + FINE + b"]", "UNREADABLE"),
        (SourceFormat.CSV, b'q,a\nfine,one\n"a\x00b",x\nfine,one\n', "NOT_TEXT"),
        (SourceFormat.TSV, b"q\ta\nfine\tone\na\x00b\tx\nfine\tone\n", "NOT_TEXT"),
        (
            SourceFormat.PARQUET,
            parquet({"q": "f", "a": "1"}, {"q": "a\0b", "a": "x"}, {"q": "f", "a": "1"}),
            "NOT_TEXT",
        ),
    ],
)
def test_b9_nul_bytes_cost_their_row_only(tmp_path: Path, kind: SourceFormat, data: bytes, reason: str) -> None:
    (tmp_path / "in").write_bytes(data)
    recipe = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", COLUMNS)
    done = refine(Job(recipe, (SourceFile(tmp_path / "in", "source 0", kind, None),), processes=1), tmp_path)
    # The third row repeats the first: it was read as well.
    assert done.report.refused == {reason: 1, "EXACT_DUPLICATE": 1}
    assert done.tally.input_rows == 3


def test_b9_a_file_that_a_crash_filled_with_nul_bytes_is_refused_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(FINE + bytes(4096))
    recipe = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", COLUMNS)
    with pytest.raises(InvalidInput) as caught:
        refine(Job(recipe, (SourceFile(tmp_path / "in", "source 0", SourceFormat.JSONL, None),)), tmp_path)
    assert caught.value.reason == "SOURCE_NOT_TEXT"
