"""Measures of texts: values that are known, and what changes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from mainspring_data_ingest.adapters.jobs import Job, SourceFile
from mainspring_data_ingest.adapters.measuring import clusters, lexical, measure, self_bleu, vendi_score
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.measurements import LEXICAL
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.report import Report
from mainspring_data_ingest.domain.steps import Decontamination, ReferenceExamples
from mainspring_svckit.values import ArtifactRef

TEXTS = [
    f"the {noun} {verb} in the {place}" for noun in ("cat", "boat") for verb in ("sleeps", "turns") for place in "xy"
]


def test_the_vendi_score_counts_what_is_different() -> None:
    assert vendi_score(np.eye(7)) == pytest.approx(7)
    assert vendi_score(np.tile([1.0, 0.0], (7, 1))) == pytest.approx(1)
    # Two kinds, each several times: two.
    assert vendi_score(np.repeat(np.eye(2), 5, axis=0)) == pytest.approx(2)
    # Shares of 3/4 and 1/4: the exponential of their entropy.
    shares = np.array([0.75, 0.25])
    uneven = np.repeat(np.eye(2), [6, 2], axis=0)
    assert vendi_score(uneven) == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))


def test_self_bleu_is_100_for_equal_answers_and_falls_with_difference() -> None:
    assert self_bleu(["the same answer every time"] * 4) == pytest.approx(100)
    different = ["apples grow on trees", "nine ships left port", "who wrote that letter", "rain fell all night"]
    assert self_bleu(different) < 10
    assert self_bleu(["alone"]) == 0


def test_lexical_vectors_have_length_one_and_tell_words_apart() -> None:
    vectors = lexical(["How do I pay?", "how do  i PAY?", "Ships left port.", ""])
    assert np.linalg.norm(vectors[:3], axis=1) == pytest.approx(1)
    assert vectors[0] @ vectors[1] == pytest.approx(1)
    assert vectors[0] @ vectors[2] < 0.2


def test_clusters_follow_the_data_and_are_always_the_same() -> None:
    rng = np.random.default_rng(7)
    centres = np.eye(3)
    points = np.repeat(centres, 20, axis=0) + 0.01 * rng.standard_normal((60, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = clusters(points)
    kinds = [set(labels[start : start + 20].tolist()) for start in (0, 20, 40)]
    assert not kinds[0] & kinds[1]
    assert not kinds[1] & kinds[2]
    assert np.array_equal(labels, clusters(points.copy()))


def test_a_version_that_holds_the_use_case_covers_it_and_another_does_not() -> None:
    near = measure(TEXTS, TEXTS, TEXTS[:3], None, "")
    assert near.vectors == LEXICAL
    assert near.alignment is not None
    assert near.alignment.reference_to_nearest == pytest.approx(1)
    assert near.alignment.covered_clusters == near.alignment.reference_clusters
    far = measure(["zzz qqq"] * 5, ["zzz qqq"] * 5, TEXTS, None, "")
    assert far.alignment is not None
    assert far.alignment.reference_to_nearest < 0.2
    assert far.alignment.covered_clusters < far.alignment.reference_clusters
    assert far.vendi_score == pytest.approx(1)
    assert near.vendi_score > 2


def test_vectors_of_a_model_are_taken_as_they_are() -> None:
    found = measure(
        ["a", "b"], ["a", "b"], ["c"], [[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], "projects/p/models/m/versions/1"
    )
    assert (found.vectors, found.vendi_score) == ("projects/p/models/m/versions/1", 2.0)
    assert found.alignment is not None
    assert found.alignment.reference_to_nearest == pytest.approx(0.7071, abs=1e-4)


def test_a_report_tells_diversity_and_alignment_before_and_after(tmp_path: Path) -> None:
    rows = [{"q": f"q{n % 20}", "a": TEXTS[n % 8] if n % 20 < 8 else f"{TEXTS[0]} {n % 20}"} for n in range(60)]
    for name, some in (("rows", rows), ("held-out", [{"q": f"q{n}", "a": text} for n, text in enumerate(TEXTS)])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    columns, step = ColumnMapping(input_column="q", target_column="a"), Decontamination(file=ArtifactRef("0" * 64, 1))
    recipe = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", columns, steps=(step,))
    sources = [SourceFile(tmp_path / name, name, SourceFormat.JSONL, None) for name in ("rows", "held-out")]
    made = refine(Job(recipe, (sources[0],), held_out=((sources[1],),)), tmp_path)
    report = Report.parse(made.report.as_bytes())
    assert report == made.report
    before, after = report.before.diversity, report.after.diversity
    assert before is not None
    assert after is not None
    assert (before.rows, after.rows) == (60, made.tally.input_rows - sum(made.tally.refusals.values()))
    assert before.vectors == after.vectors == LEXICAL
    assert before.self_bleu > after.self_bleu  # Duplicates are gone.
    assert before.alignment is not None
    # What the evaluation set asks has left the rows.
    assert before.alignment.reference_to_nearest == 1
    assert after.alignment is not None
    assert after.alignment.reference_to_nearest < 1
    body = json.loads(made.report.as_bytes())
    for side in ("before", "after"):
        del body[side]["diversity"]  # As older releases wrote it.
    assert Report.parse(json.dumps(body).encode()).after.diversity is None


@pytest.mark.parametrize("kept_out", [False, True])
def test_reference_examples_are_compared_with_and_keep_nothing_out(tmp_path: Path, kept_out: bool) -> None:
    rows = [{"q": f"q{n}", "a": f"{TEXTS[n]} {n}"} for n in range(8)]
    parts = {"rows": rows, "held-out": [{"q": "other", "a": "nothing alike 123"}], "wanted": [rows[0]]}
    for name, some in parts.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    file = ArtifactRef("0" * 64, 1)
    columns, steps = ColumnMapping(input_column="q", target_column="a"), (Decontamination(file=file),) * kept_out
    recipe = IngestionRecipe(
        "projects/p/ingestionRecipes/r",
        "projects/p/datasets/d",
        columns,
        steps=steps,
        reference=ReferenceExamples(file=file),
    )
    read, held_out, wanted = [SourceFile(tmp_path / name, name, SourceFormat.JSONL, None) for name in parts]
    made = refine(Job(recipe, (read,), held_out=(*((held_out,) for _ in steps), (wanted,))), tmp_path)
    assert made.tally.input_rows == sum(made.tally.splits.values()) == 8
    assert made.report.after.diversity is not None
    alignment = made.report.after.diversity.alignment
    assert alignment is not None
    assert (alignment.reference_rows, alignment.reference_to_nearest) == (1, 1)
