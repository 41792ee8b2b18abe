"""Shapes of records: recognised, and read into messages, rejected answers and thumbs."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mainspring_data_ingest.adapters import shards
from mainspring_data_ingest.adapters.jobs import Job, SourceFile
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.application.ports import Refined
from mainspring_data_ingest.domain.columns import MESSAGES, ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import RowRefused
from mainspring_data_ingest.domain.rows import Draft, Example, ExampleMaker, Message, Row
from mainspring_data_ingest.domain.shapes import Shape, recognise
from mainspring_data_ingest.domain.splits import Split
from mainspring_data_ingest.domain.steps import TextPart

QUESTION, GOOD, BAD = "Is water wet?", "Yes, it is.", "No idea."


def recipe(columns: ColumnMapping, **changes: Any) -> IngestionRecipe:
    return IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", columns, **changes)


def made(record: dict[str, Any], columns: ColumnMapping, **changes: Any) -> Example:
    return ExampleMaker(recipe(columns, **changes), columns).make(record)


def turns(*contents: str, user: str = "user", assistant: str = "assistant") -> list[dict[str, str]]:
    roles = (user, assistant)
    return [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]


CHAT = (Message("user", QUESTION), Message("assistant", GOOD))
SYSTEM = (Message("system", "Be brief."), *CHAT)
SHAPES: list[tuple[Shape, dict[str, Any], Example]] = [
    (Shape.CHAT, {"messages": turns(QUESTION, GOOD)}, Example(CHAT, QUESTION)),
    (
        Shape.CHAT,
        {"messages": [{"role": "developer", "content": "Be brief."}, *turns(QUESTION, GOOD)], "tools": []},
        Example(SYSTEM, QUESTION),
    ),
    (
        Shape.CHAT,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}, *turns(QUESTION, GOOD)[1:]]},
        Example(CHAT, QUESTION),
    ),
    (
        Shape.OPENAI_PREFERENCES,
        {
            "input": {"messages": turns(QUESTION), "tools": [], "parallel_tool_calls": True},
            "preferred_output": [{"role": "assistant", "content": GOOD}],
            "non_preferred_output": [{"role": "assistant", "content": BAD}],
        },
        Example(CHAT, QUESTION, rejected=BAD),
    ),
    (
        Shape.SHAREGPT,
        {"id": 1, "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": GOOD}]},
        Example(CHAT, QUESTION),
    ),
    (
        Shape.ALPACA,
        {"instruction": "Answer.", "input": QUESTION, "output": GOOD},
        Example((Message("user", f"Answer.\n\n{QUESTION}"), CHAT[1]), f"Answer.\n\n{QUESTION}"),
    ),
    (
        Shape.ALPACA,
        {"instruction": QUESTION, "input": "", "output": GOOD, "system": "Be brief."},
        Example(SYSTEM, QUESTION),
    ),
    (Shape.PROMPT_COMPLETION, {"prompt": QUESTION, "completion": GOOD}, Example(CHAT, QUESTION)),
    (
        Shape.PROMPT_COMPLETION,
        {"prompt": turns(QUESTION), "completion": [{"role": "assistant", "content": GOOD}]},
        Example(CHAT, QUESTION),
    ),
    (Shape.PROMPT_COMPLETION, {"Question": QUESTION, "Answer": GOOD}, Example(CHAT, QUESTION)),
    (
        Shape.CHOSEN_REJECTED,
        {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD},
        Example(CHAT, QUESTION, rejected=BAD),
    ),
    (
        Shape.CHOSEN_REJECTED,
        {"chosen": turns(QUESTION, GOOD), "rejected": turns(QUESTION, BAD)},
        Example(CHAT, QUESTION, rejected=BAD),
    ),
    (
        Shape.CHOSEN_REJECTED,
        {"prompt": QUESTION, "chosen": turns(QUESTION, GOOD), "rejected": turns(QUESTION, BAD), "score_chosen": 8.0},
        Example(CHAT, QUESTION, rejected=BAD),
    ),
    (
        Shape.CHOSEN_REJECTED,
        {
            "chosen": f"\n\nHuman: {QUESTION}\n\nAssistant: {GOOD}",
            "rejected": f"\n\nHuman: {QUESTION}\n\nAssistant: {BAD}",
        },
        Example(CHAT, QUESTION, rejected=BAD),
    ),
    (
        Shape.THUMBS,
        {"prompt": QUESTION, "completion": GOOD, "label": False},
        Example(CHAT, QUESTION, desirable=False),
    ),
    (
        Shape.CHAT,
        {"messages": turns(QUESTION, GOOD), "desirable": True, "rejected": None},
        Example(CHAT, QUESTION, desirable=True),
    ),
    (Shape.CORPUS, {"text": "Water is wet."}, Example((Message("assistant", "Water is wet."),), "Water is wet.")),
    (Shape.CORPUS, {"text": "Water.", "file": "a.md"}, Example((Message("assistant", "Water."),), "a.md")),
]


@pytest.mark.parametrize(("shape", "record", "example"), SHAPES)
def test_usual_shapes_are_recognised_and_read(shape: Shape, record: dict[str, Any], example: Example) -> None:
    found = recognise([record] * 3)
    assert found is not None
    assert found[0] is shape
    assert made(record, found[1]) == example


@pytest.mark.parametrize("records", [[], [{"mr": "x", "ref": "y"}], [{"messages": 3}], [{"text": 1}], [{}]])
def test_other_shapes_are_not_guessed(records: list[dict[str, Any]]) -> None:
    assert recognise(records) is None


def test_a_few_records_of_another_shape_do_not_matter() -> None:
    found = recognise([*[{"prompt": "p", "completion": "c"}] * 19, {"prompt": "p"}])
    assert found is not None
    assert found[0] is Shape.PROMPT_COMPLETION


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        ({"chosen": turns(QUESTION, GOOD), "rejected": turns("Another?", BAD)}, "answers another prompt"),
        ({"chosen": turns(QUESTION, GOOD), "rejected": turns(QUESTION, GOOD)}, "is the better answer once more"),
        ({"chosen": turns(QUESTION, GOOD), "rejected": turns(QUESTION)}, "does not end with a message"),
        ({"chosen": turns(QUESTION, GOOD), "rejected": 3}, "is a number, not text"),
        ({"chosen": turns(QUESTION), "rejected": turns(QUESTION, BAD)}, "does not end with a message"),
    ],
)
def test_b9_pairs_that_are_none_are_refused(record: dict[str, Any], detail: str) -> None:
    with pytest.raises(RowRefused, match=detail):
        made(record, ColumnMapping(messages_column="chosen", rejected_column="rejected"))


@pytest.mark.parametrize(
    ("value", "thumb"), [(True, True), (0, False), ("Yes", True), ("\N{THUMBS DOWN SIGN}", False), (None, None)]
)
def test_thumbs_are_read_as_people_write_them(value: Any, thumb: bool | None) -> None:
    columns = ColumnMapping(input_column="q", target_column="a", desirable_column="ok")
    assert made({"q": "x", "a": "y", "ok": value}, columns).desirable is thumb


@pytest.mark.parametrize("value", [2, "perhaps", [True], 0.5, {"up": 1}])
def test_b9_what_is_no_thumb_is_refused(value: Any) -> None:
    columns = ColumnMapping(input_column="q", target_column="a", desirable_column="ok")
    with pytest.raises(RowRefused, match="neither true nor false"):
        made({"q": "x", "a": "y", "ok": value}, columns)


def test_the_template_and_the_system_prompt_are_not_for_text_without_a_prompt() -> None:
    columns = ColumnMapping(text_column="text")
    example = made({"text": "Water."}, columns, prompt_template="Say: {input}", system_prompt="Be brief.")
    assert example.messages == (Message("assistant", "Water."),)


def test_steps_change_rejected_answers_as_they_change_answers() -> None:
    draft = Draft(CHAT, rejected=BAD)
    assert draft.changed(TextPart.ANSWER, str.upper).rejected == BAD.upper()
    assert draft.changed(TextPart.PROMPT, str.upper).rejected == BAD
    assert draft.changed(TextPart.ALL, str) is draft


def row(**changes: Any) -> Row:
    return Row.of(Example(CHAT, QUESTION, **changes), 0, 1)


def test_rows_are_identified_with_what_was_said_of_their_answer() -> None:
    rows = [row(), row(rejected=BAD), row(rejected="x"), row(desirable=True), row(desirable=False)]
    assert len({r.row_id for r in rows}) == len(rows)
    assert row(synthetic=True).row_id == row().row_id
    assert len({r.prompt_digest for r in rows}) == 1
    whole = row(rejected=BAD, desirable=False, synthetic=True)
    body = json.loads(whole.canonical)
    assert (body["rejected"], body["desirable"], body["synthetic"]) == (BAD, False, True)
    assert not {"rejected", "desirable", "synthetic"} & json.loads(row().canonical).keys()
    assert whole.canonical == json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def refined(folder: Path, columns: ColumnMapping, *sources: list[dict[str, Any]], **options: Any) -> Refined:
    folder.mkdir(parents=True, exist_ok=True)
    files: list[SourceFile] = []
    for index, records in enumerate(sources):
        path = folder / f"source-{index}"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        files.append(SourceFile(path, f"source {index}", SourceFormat.JSONL, None))
    return refine(Job(recipe(columns), tuple(files), **options), folder)


def chat(number: int, **more: Any) -> dict[str, Any]:
    return {"messages": turns(f"question {number}", f"answer {number}"), **more}


def columns_of(made: Refined) -> set[tuple[str, ...]]:
    return {tuple(pq.read_schema(shard.path).names) for shard in made.shards}


def test_versions_without_pairs_and_thumbs_have_the_columns_that_they_always_had(tmp_path: Path) -> None:
    plain = refined(tmp_path / "a", ColumnMapping(messages_column="messages"), [chat(n) for n in range(40)])
    same = refined(tmp_path / "b", MESSAGES, [chat(n) for n in range(40)])
    assert columns_of(plain) == columns_of(same) == {("row_id", "messages", "group", "source_index", "line")}
    assert [s.rows_sha256 for s in plain.shards] == [s.rows_sha256 for s in same.shards]
    assert [s.path.read_bytes() for s in plain.shards] == [s.path.read_bytes() for s in same.shards]


@pytest.mark.parametrize("late", [0, 7, 60, 119])
def test_every_shard_has_the_columns_that_some_row_needs(
    tmp_path: Path, late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 4)
    records = [chat(n) for n in range(120)]
    records[late]["rejected"] = BAD
    records[max(0, late - 3)]["desirable"] = True
    made = refined(tmp_path, MESSAGES, records[:60], records[60:], rows_per_shard=25)
    assert len(made.shards) > 3
    assert columns_of(made) == {
        ("row_id", "messages", "group", "source_index", "line", "rejected", "desirable"),
    }
    rows: list[dict[str, Any]] = [r for s in made.shards for r in pq.read_table(s.path).to_pylist()]
    assert len(rows) == 120
    assert [r["messages"][0]["content"] for r in rows if r["rejected"] == BAD] == [f"question {late}"]
    assert [r["messages"][0]["content"] for r in rows if r["desirable"]] == [f"question {max(0, late - 3)}"]
    assert {path.suffix for path in tmp_path.iterdir()} <= {"", ".parquet", ".jsonl"}


@pytest.mark.parametrize("said", [True, 1, "True", " yes "])
def test_b9_a_record_that_says_that_a_model_made_it_is_marked_and_in_the_train_split_only(
    tmp_path: Path, said: Any
) -> None:
    records = [chat(n, **({"synthetic": said} if n % 2 else {})) for n in range(160)]
    made = refined(tmp_path / "made", ColumnMapping(messages_column="messages"), records)
    assert columns_of(made) == {("row_id", "messages", "group", "source_index", "line", "synthetic")}
    found = [(s.split, r) for s in made.shards for r in pq.read_table(s.path).to_pylist()]
    assert {row["line"] for _, row in found if row["synthetic"]} == set(range(2, 161, 2))
    assert {split for split, row in found if row["synthetic"]} == {Split.TRAIN}
    assert {row["synthetic"] for split, row in found if split is not Split.TRAIN} == {None}
    # The others are what they are without the mark, and where they are without it.
    plain = refined(tmp_path / "plain", ColumnMapping(messages_column="messages"), [chat(n) for n in range(160)])
    where = {r["row_id"]: s.split for s in plain.shards for r in pq.read_table(s.path).to_pylist()}
    assert {r["row_id"]: split for split, r in found if not r["synthetic"]}.items() < where.items()
    assert {row["row_id"] for _, row in found} == where.keys()


@pytest.mark.parametrize("said", [False, None, "", "no", 0, "polyester"])
def test_a_record_that_does_not_say_so_is_not_marked(tmp_path: Path, said: Any) -> None:
    records = [chat(n, synthetic=said) for n in range(40)]
    made = refined(tmp_path / "a", MESSAGES, records)
    plain = refined(tmp_path / "b", MESSAGES, [chat(n) for n in range(40)])
    assert [s.path.read_bytes() for s in made.shards] == [s.path.read_bytes() for s in plain.shards]


def test_a_column_of_that_name_that_is_mapped_is_no_mark(tmp_path: Path) -> None:
    columns = ColumnMapping(input_column="text", target_column="synthetic")
    made = refined(tmp_path, columns, [{"text": f"text {n}", "synthetic": "yes"} for n in range(40)])
    assert columns_of(made) == {("row_id", "messages", "group", "source_index", "line")}
    assert sum(shard.rows for shard in made.shards) == 40


def test_a_version_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    records = [chat(n, rejected=BAD if n % 2 else None, desirable=n % 3 == 0, synthetic=n % 5 == 0) for n in range(30)]
    first = refined(tmp_path / "first", MESSAGES, records)
    files = tuple(SourceFile(s.path, s.path.name, SourceFormat.PARQUET, None) for s in first.shards)
    (tmp_path / "again").mkdir()
    again = refine(Job(recipe(MESSAGES), files), tmp_path / "again")

    def ids(made: Refined) -> set[tuple[str, bool]]:
        rows: list[dict[str, Any]] = [row for s in made.shards for row in pq.read_table(s.path).to_pylist()]
        return {(row["row_id"], row["synthetic"]) for row in rows}

    assert ids(again) == ids(first)
    assert sum(bool(synthetic) for _, synthetic in ids(first)) == 6


def test_b9_texts_without_a_prompt_are_split_by_their_own_group(tmp_path: Path) -> None:
    columns = ColumnMapping(text_column="text")
    split = {shard.split for shard in refined(tmp_path, columns, [{"text": f"text {n}"} for n in range(100)]).shards}
    assert len(split) == 3
