"""The account of the rows that an erasure leaves, in this process; over gRPC it is looked at in `test_erasures.py`."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_data_ingest.adapters.erasing import erase
from mainspring_data_ingest.adapters.jobs import Job, SourceFile
from mainspring_data_ingest.adapters.measuring import measure
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.adapters.shard_jobs import EraseRows, Side, SideShard
from mainspring_data_ingest.application.erasure_reports import ErasureReports
from mainspring_data_ingest.application.ports import Refined
from mainspring_data_ingest.application.step_files import StepFinder
from mainspring_data_ingest.application.version_ports import Leftovers, LeftTexts
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.erasures import Selector
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.measurements import Measurement
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import SOURCE_GONE, RefusalReason
from mainspring_data_ingest.domain.report import Report, TextReport
from mainspring_data_ingest.domain.rows import ExampleMaker, without_recipe
from mainspring_data_ingest.domain.steps import Decontamination, LengthFilter, MarkupToText, TextRepair
from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_testkit.fakes import FakeArtifacts

RECIPE = IngestionRecipe(
    "projects/p/ingestionRecipes/r",
    "projects/p/datasets/d",
    ColumnMapping(input_column="q", target_column="a"),
    prompt_template="Question: {input}\nAnswer briefly.",
    system_prompt="You are kind.",
    steps=(TextRepair(), MarkupToText(), LengthFilter(min_words=1, max_words=6), Decontamination()),
)
MODEL = "projects/p/models/minilm/versions/1"
ERASURE = "projects/p/erasures/e"
INGESTION = "projects/p/ingestions/i"
PERSON = "ada@example.org"
OTHERS: list[Any] = [
    {"q": "one", "a": "caf\u00c3\u00a9"},
    {"q": "two", "a": "plain"},
    {"q": "", "a": "nothing was asked"},
    {"q": "three", "a": "<b>bold</b> words"},
    {"q": "four", "a": "far too many words for a row of this small test"},
]
OF_PERSON: list[Any] = [
    {"q": "five", "a": f"ask {PERSON}"},
    {"q": "six", "a": f"<i>or</i> {PERSON.upper()}"},
    {"q": "", "a": PERSON},
]


def written(path: Path, rows: list[Any]) -> SourceFile:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceFile(path, path.name, SourceFormat.JSONL, None)


def refined(folder: Path, *sources: SourceFile) -> Refined:
    folder.mkdir()
    held_out = written(folder / "eval.jsonl", [{"q": "of the evaluation", "a": "plain talk"}])
    return refine(Job(RECIPE, sources, held_out=((), (), (), (held_out,)), processes=1), folder)


def erased(
    folder: Path,
    made: Refined | Leftovers,
    sources: list[SourceFile],
    recipe: IngestionRecipe | None = RECIPE,
    ingestion: str = INGESTION,
    **selector: Any,
) -> Leftovers:
    folder.mkdir()
    shards = tuple(SideShard(s.path, s.split.value.lower(), s.rows, s.rows_sha256) for s in made.shards)
    held_out = ((), (), (), (written(folder / "eval.jsonl", [{"q": "of the evaluation", "a": "plain talk"}]),))
    digests = tuple(source.title for source in sources)
    about = (Selector(**selector), ERASURE, ingestion, recipe, held_out, made.changed)
    return erase(EraseRows(Side(shards, digests), made.refused, tuple(sources), *about), folder)


def report_of(old: Report, left: Leftovers, refused: dict[RefusalReason, int]) -> Report:
    texts = left.texts
    assert texts is not None

    def measured(report: TextReport, answers: list[str], texts: LeftTexts) -> TextReport:
        return replace(report, diversity=measure(answers, answers, texts.reference, None, ""))

    return old.erased(
        refused,
        rows=left.erased_rows,
        refused_rows=left.erased_refused,
        changed_rows=texts.erased_changed,
        before=measured(texts.before, texts.answers_before, texts),
        after=measured(texts.after, texts.answers_after, texts),
    )


def residue_of(left: Leftovers) -> SourceFile:
    columns = ColumnMapping(messages_column="messages", group_column="group")
    return SourceFile(left.residues[0], "residue", SourceFormat.JSONL, columns, "residue")


def refused_rows(left: Leftovers | Refined) -> list[dict[str, Any]]:
    return [json.loads(line) for line in left.refused.read_text().splitlines()] if left.refused else []


def changed_rows(left: Leftovers | Refined) -> list[dict[str, Any]]:
    return [json.loads(line) for line in left.changed.read_text().splitlines()] if left.changed else []


def test_b9_each_row_of_a_version_is_accounted_for_when_it_is_erased(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [*OTHERS[:2], *OF_PERSON, *OTHERS[2:]])
    made = refined(tmp_path / "made", source)
    left = erased(tmp_path / "left", made, [source], text=PERSON)
    counts = {RefusalReason.EMPTY: 1, RefusalReason.WRONG_LENGTH: 1, RefusalReason.ERASED: 3}
    report = report_of(made.report, left, counts)
    # As if the person had never been there, but for the rows that are counted as erased.
    without = refined(tmp_path / "without", written(tmp_path / "without.jsonl", OTHERS)).report
    assert report.after == without.after
    began = replace(made.report.after, labels=report.after.labels)  # Others tell what the person said.
    assert report.before == began
    assert (report.kept_unchanged, report.kept_changed) == (without.kept_unchanged, without.kept_changed) == (1, 2)
    assert report.input_rows == made.report.input_rows == 3 + sum(report.refused.values())
    assert report.steps[:-1] == made.report.steps
    last = report.steps[-1]
    assert (last.step, last.passed, last.refused) == ("erasure", 3, {RefusalReason.ERASED: 3})
    assert last.found == {"rows": 2, "rows_refused_as_empty": 1}
    # Whoever reads refused rows finds each at its place, and nothing of what it said.
    rows = refused_rows(left)
    assert [(row["line"], row["reason"]) for row in rows] == [
        (3, "ERASED"),
        (4, "ERASED"),
        (5, "ERASED"),
        (6, "EMPTY"),
        (8, "WRONG_LENGTH"),
    ]
    assert all(ERASURE in row["detail"] and not row["excerpt"] for row in rows[:3])
    assert rows[2]["detail"].endswith("it had been refused as EMPTY")
    assert [(row["step"], row["step_number"]) for row in rows] == [
        *[("erasure", 0)] * 3,
        ("reading", 0),
        ("length_filter", 3),
    ]
    changed = changed_rows(left)
    assert [(row["line"], [step["step"] for step in row["steps"]]) for row in changed] == [
        (1, ["text_repair"]),
        (7, ["markup_to_text"]),
    ]
    ids = {row_id for shard in left.shards for row_id in pq.read_table(shard.path)["row_id"].to_pylist()}
    assert {row["row_id"] for row in changed} < ids
    assert len(changed_rows(made)) == 3
    assert PERSON not in json.dumps([rows, report.as_bytes().decode()]).lower()
    assert Report.parse(report.as_bytes()) == report


def test_a_second_erasure_knows_which_rows_steps_had_changed(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [*OTHERS, *OF_PERSON])
    other = written(tmp_path / "other.jsonl", [{"q": "seven", "a": "stays"}])
    made = refined(tmp_path / "made", source, other)
    first = erased(tmp_path / "first", made, [source, other], text=PERSON)
    counts = {RefusalReason.EMPTY: 1, RefusalReason.WRONG_LENGTH: 1, RefusalReason.ERASED: 3}
    report = report_of(made.report, first, counts)
    assert (report.kept_unchanged, report.kept_changed) == (2, 2)
    assert [row["line"] for row in changed_rows(first)] == [1, 4]
    residue = residue_of(first)
    second = erased(tmp_path / "second", first, [residue, other], text="bold words")
    again = report_of(report, second, {**counts, RefusalReason.ERASED: 4})
    assert (again.kept_unchanged, again.kept_changed) == (2, 1)
    assert [row["line"] for row in changed_rows(second)] == [1]
    assert [step.step for step in again.steps[-2:]] == ["erasure", "erasure"]
    assert sum(step.refused[RefusalReason.ERASED] for step in again.steps[-2:]) == 4
    # A source that goes as a whole takes its rows with it; they are still told of.
    third = erased(
        tmp_path / "third", second, [replace(residue, path=second.residues[0]), other], source_sha256="residue"
    )
    assert [row["source_index"] for row in refused_rows(third)] == [SOURCE_GONE] * 8
    assert [pq.read_table(shard.path)["source_index"].to_pylist() for shard in third.shards] == [[0]]
    assert third.changed is None
    final = report_of(again, third, {RefusalReason.ERASED: 8})
    assert (final.input_rows, final.kept_unchanged, final.kept_changed) == (9, 1, 0)


def test_changed_rows_move_up_with_their_source(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", OF_PERSON)
    other = written(tmp_path / "other.jsonl", [{"q": "seven", "a": "<b>stays</b>"}])
    made = refined(tmp_path / "made", source, other)
    assert [(row["source_index"], row["line"]) for row in changed_rows(made)] == [(0, 2), (1, 1)]
    left = erased(tmp_path / "left", made, [source, other], text=PERSON)
    assert [(row["source_index"], row["line"]) for row in changed_rows(left)] == [(0, 1)]
    # A version that an older release made does not know, nor does its successor.
    assert erased(tmp_path / "old", replace(made, changed=None), [source, other], text=PERSON).changed is None


async def test_b9_each_piece_of_a_long_paragraph_is_accounted_for(tmp_path: Path) -> None:
    recipe = replace(
        RECIPE,
        columns=ColumnMapping(input_column="text", target_column="text"),
        steps=(MarkupToText(),),
        prompt_template="{input}",
        system_prompt="",
    )
    words = [" ".join(f"w{piece}x{n}" for n in range(500)) for piece in range(6)]
    words[1], words[3], words[4] = (f"{PERSON} {words[piece]}" for piece in (1, 3, 4))
    path = tmp_path / "in.txt"
    path.write_text(" ".join(words) + "\n\n<b>the end</b>\n")
    text = SourceFile(path, "in.txt", SourceFormat.TEXT, None, "in.txt")
    (tmp_path / "made").mkdir()
    made = refine(Job(recipe, (text,), processes=1), tmp_path / "made")
    first = erased(tmp_path / "first", made, [text], recipe, text=PERSON)
    assert first.erased_rows > 1
    assert len(refused_rows(first)) == first.erased_rows
    assert {row["line"] for row in refused_rows(first)} == {1}
    left = made.report.input_rows - first.erased_rows
    assert left > 2
    report = report_of(made.report, first, {RefusalReason.ERASED: first.erased_rows})
    assert (report.kept_unchanged, report.kept_changed) == (left - 1, 1)
    # The residue has a line for each piece; the version goes on to name the paragraph's.
    residue = residue_of(first)
    again = erased(tmp_path / "again", first, [residue], recipe, source_sha256="residue")
    assert again.texts is not None
    assert (again.erased_rows, again.texts.erased_changed) == (left, 1)
    # What is noted there is nobody's, and is found no more than it was before.
    assert not erased(tmp_path / "none", first, [residue], recipe, text="ingestions/i").found


def test_what_is_noted_of_a_row_is_true_for_its_ingestion_only(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [*OTHERS, *OF_PERSON])
    made = refined(tmp_path / "made", source)
    first = erased(tmp_path / "first", made, [source], text=PERSON)
    residue = residue_of(first)
    same, later = (
        erased(tmp_path / name, first, [residue], ingestion=f"projects/p/ingestions/{name}", source_sha256="residue")
        for name in ("i", "later")
    )
    assert same.texts is not None
    assert later.texts is not None
    assert (same.erased_rows, same.texts.erased_changed) == (3, 2)
    assert (later.erased_rows, later.texts.erased_changed) == (3, 0)
    # Without a recipe nothing is known, so nothing is noted.
    unknown = erased(tmp_path / "unknown", made, [source], None, text=PERSON)
    assert INGESTION not in unknown.residues[0].read_text()


class Words:
    """`Embeddings` by the words of a text, or nobody who answers."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure

    async def embed(self, project: str, model: str, texts: list[str]) -> tuple[list[list[float]], str]:
        if self.failure is not None:
            raise self.failure
        return [[float(len(text)), 1.0] for text in texts], model


class Tools:
    """What of `ShardTools` writes reports, or fails at it."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure

    async def measure(self, *sample: Any) -> Measurement:
        if self.failure is not None:
            raise self.failure
        return measure(*sample)


async def report_written(
    folder: Path, tools: Any, embeddings: Words | None = None, *, lost: bool = False
) -> Report | None:
    source, files = written(folder / "in.jsonl", [*OTHERS, *OF_PERSON]), FakeArtifacts()
    made = refined(folder / "made", source)
    left = erased(folder / "left", made, [source], text=PERSON)
    assert left.texts is not None
    left = replace(left, texts=replace(left.texts, embedding_model=MODEL))
    stored = await files.put_bytes("p", made.report.as_bytes())
    if lost:
        await files.discard("p", stored)
    version: Any = SimpleNamespace(name="projects/p/datasets/d/versions/1", report=stored)
    ports: Any = SimpleNamespace(files=files)
    reports = ErasureReports(ports, tools, StepFinder(ports), embeddings)
    written_down = await reports.write(version, left, {RefusalReason.ERASED: 3})
    return Report.parse(await files.read("p", written_down)) if written_down is not None else None


@pytest.mark.parametrize("failure", [Unavailable("SHARD_WORK_FAILED", "died"), PreconditionFailed("ANY", "refused")])
async def test_f15_an_erasure_whose_sample_cannot_be_measured_has_a_report_without(
    tmp_path: Path, failure: Exception
) -> None:
    report = await report_written(tmp_path, Tools(failure))
    assert report is not None
    assert report.after.rows == 3
    assert (report.before.diversity, report.after.diversity) == (None, None)


async def test_f15_an_erasure_does_not_wait_for_a_report_that_is_lost(tmp_path: Path) -> None:
    assert await report_written(tmp_path, Tools(), lost=True) is None


@pytest.mark.parametrize(
    ("embeddings", "vectors"),
    [(Words(), MODEL), (None, "lexical"), (Words(Unavailable("UPSTREAM", "nobody answers")), "lexical")],
)
async def test_f15_an_erasure_does_not_wait_for_the_vectors_of_its_report(
    tmp_path: Path, embeddings: Words | None, vectors: str
) -> None:
    report = await report_written(tmp_path, Tools(), embeddings)
    assert report is not None
    for texts in (report.before, report.after):
        assert texts.diversity is not None
        assert texts.diversity.vectors == vectors


def test_an_answer_that_only_erased_rows_gave_is_not_told(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [*OTHERS, *OF_PERSON])
    made = refined(tmp_path / "made", source)
    assert any(PERSON in label for label in made.report.after.labels or {})
    report = report_of(made.report, erased(tmp_path / "left", made, [source], text=PERSON), {})
    assert report.before.labels == report.after.labels


def test_b9_what_an_erasure_leaves_of_synthetic_rows_is_marked_as_they_were(tmp_path: Path) -> None:
    rows = [{**OTHERS[1], "synthetic": True}, OTHERS[3], *OF_PERSON]
    source = written(tmp_path / "in.jsonl", rows)
    made = refined(tmp_path / "made", source)
    left = erased(tmp_path / "left", made, [source], text=PERSON)
    again = refined(tmp_path / "again", residue_of(left))
    for version in (left, again):
        found = [row for shard in version.shards for row in pq.read_table(shard.path).to_pylist()]
        assert {row["messages"][-1]["content"]: row["synthetic"] for row in found} == {
            "plain": True,
            "bold words": None,
        }


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map("x{}".format),
    st.sampled_from(["{input}", "Q: {input}", "{input}!", "{input} or {input}", "a{input}a{input}"]),
    st.sampled_from(["", "Be kind."]),
)
def test_what_a_recipe_puts_around_a_prompt_comes_off_again(prompt: str, template: str, system: str) -> None:
    recipe = replace(RECIPE, prompt_template=template, system_prompt=system)
    maker = ExampleMaker(recipe, recipe.columns)
    draft = maker.draft({"q": prompt, "a": "x"})
    assert without_recipe(recipe, maker.render(draft).messages) == draft.messages
