import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data.v1 import recipe_pb2
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.datasets import (
    Dataset,
    DatasetVersion,
    Shard,
    Tally,
    manifest_bytes,
    root_sha256,
)
from mainspring_data_ingest.domain.ingestions import (
    INGESTION_STATES,
    Ingestion,
    IngestionState,
    Source,
    SourceFormat,
)
from mainspring_data_ingest.domain.manifests import Manifest
from mainspring_data_ingest.domain.recipes import IngestionRecipe, SplitShares
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused, excerpt
from mainspring_data_ingest.domain.report import Report, StepReport, TextReport, TextStatistics
from mainspring_data_ingest.domain.rows import Draft, Example, ExampleMaker, Message, Row
from mainspring_data_ingest.domain.splits import Split, place_of, splits_by_place
from mainspring_data_ingest.domain.steps import PersonalData, TextRepair
from mainspring_data_ingest.transport.steps import step_from_proto
from mainspring_svckit.errors import IllegalTransition
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.contracts.states import assert_as_declared

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAIRS = ColumnMapping(input_column="in", target_column="out")
CHATS = ColumnMapping(messages_column="messages")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def recipe(columns: ColumnMapping = PAIRS, **changes: Any) -> IngestionRecipe:
    return IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", columns, **changes)


def made(values: dict[str, Any], columns: ColumnMapping = PAIRS, **changes: Any) -> Example:
    return ExampleMaker(recipe(columns, **changes), columns).make(values)


def refused(values: dict[str, Any], columns: ColumnMapping = PAIRS, **changes: Any) -> tuple[str, str]:
    with pytest.raises(RowRefused) as caught:
        made(values, columns, **changes)
    return caught.value.reason.value, caught.value.detail


def row(prompt: str, answer: str = "a", group: str = "", line: int = 1) -> Row:
    return Row.of(Example((Message("user", prompt), Message("assistant", answer)), group or prompt), 0, line)


def test_state_machine_is_as_the_contract_says() -> None:
    assert_as_declared(INGESTION_STATES, "data/v1/ingestion.proto", "Ingestion")


def test_two_columns_become_a_chat() -> None:
    example = made({"in": "x", "out": " y "}, prompt_template="Say {input}, {input}!", system_prompt="Be brief.")
    assert example.messages == (("system", "Be brief."), ("user", "Say x, x!"), ("assistant", " y "))
    assert example.group == "Say x, x!"


def test_a_template_is_filled_once() -> None:
    assert made({"in": "{input}", "out": "y"}, prompt_template="<{input}>").messages[0].content == "<{input}>"


def test_messages_are_taken_with_roles_in_lower_case() -> None:
    chat = [{"role": "User", "content": "q"}, {"role": "ASSISTANT", "content": "a", "name": "x"}]
    assert made({"messages": chat}, CHATS).messages == (("user", "q"), ("assistant", "a"))
    assert made({"messages": json.dumps(chat)}, CHATS).group == "q"


def test_a_conversation_that_brings_instructions_keeps_them() -> None:
    chat = [
        {"role": "system", "content": "own"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    assert made({"messages": chat}, CHATS, system_prompt="ours").messages[0].content == "own"
    assert made({"messages": chat[1:]}, CHATS, system_prompt="ours").messages[0] == ("system", "ours")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"in": "x"}, "MISSING_COLUMN"),
        ({}, "MISSING_COLUMN"),
        ({"in": "x", "out": None}, "NOT_TEXT"),
        ({"in": "x", "out": 17}, "NOT_TEXT"),
        ({"in": ["x"], "out": "y"}, "NOT_TEXT"),
        ({"in": "x", "out": "y\0"}, "NOT_TEXT"),
        ({"in": "x", "out": "\ud800"}, "NOT_TEXT"),
        ({"in": "x", "out": ""}, "EMPTY"),
        ({"in": " \t\n\u3000", "out": "y"}, "EMPTY"),
        ({"in": "\u200b\ufeff", "out": "y"}, "EMPTY"),
        ({"in": "x" * 11, "out": "y"}, "TOO_LONG"),
    ],
)
def test_b9_fields_that_are_no_text_are_refused(values: dict[str, Any], reason: str) -> None:
    found, detail = refused(values, max_field_characters=10)
    assert found == reason
    assert detail


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (3, "NOT_TEXT"),
        ("not JSON", "NOT_TEXT"),
        ("[" * 100_000, "NOT_TEXT"),
        ('[{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "a"}]', "NOT_TEXT"),
        ([], "EMPTY"),
        (["q"], "NOT_TEXT"),
        ([{"role": "user"}], "NOT_TEXT"),
        ([{"role": "tool", "content": "q"}, {"role": "assistant", "content": "a"}], "NOT_TEXT"),
        ([{"role": "user", "content": "q"}], "NOT_TEXT"),
        ([{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}], "NOT_TEXT"),
        ([{"role": "user", "content": [{"type": "text"}]}, {"role": "assistant", "content": "a"}], "NOT_TEXT"),
        ([{"role": "user", "content": " "}, {"role": "assistant", "content": "a"}], "EMPTY"),
    ],
)
def test_b9_lists_that_are_no_conversation_are_refused(messages: Any, reason: str) -> None:
    assert refused({"messages": messages}, CHATS)[0] == reason


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    assert refused({"in": "x", "ref": "y"})[1] == "has no column 'out'; it has 'in', 'ref'"


def test_groups_may_be_numbers() -> None:
    columns = ColumnMapping("in", "out", group_column="id")
    assert made({"in": "x", "out": "y", "id": 7}, columns).group == "7"
    assert refused({"in": "x", "out": "y", "id": True}, columns)[0] == "NOT_TEXT"


@given(TEXT, TEXT, TEXT)
def test_canonical_rows_are_canonical_json(prompt: str, answer: str, group: str) -> None:
    made_row = row(prompt, answer, group, 3)
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    row_id = hashlib.sha256(canonical(messages)).hexdigest()
    whole = {"row_id": row_id, "messages": messages, "group": group, "source_index": 0, "line": 3}
    assert made_row.row_id == row_id
    assert made_row.canonical.encode() == canonical(whole)


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_groups_are_shared_out_as_asked() -> None:
    by_place = splits_by_place(SplitShares(80, 10, 10))
    counts = [by_place[place_of(hashlib.sha256(str(number).encode()).digest())] for number in range(10_000)]
    assert abs(counts.count(Split.TRAIN) - 8000) < 200
    assert abs(counts.count(Split.TEST) - 1000) < 150
    assert set(splits_by_place(SplitShares(0, 0, 100))) == {Split.TEST}


def test_a_recipe_has_the_same_digest_whatever_its_name() -> None:
    other = IngestionRecipe("projects/q/ingestionRecipes/x", "projects/q/datasets/y", PAIRS)
    assert recipe().applied_sha256() == other.applied_sha256() == recipe(version=7).applied_sha256()
    assert recipe().applied_sha256() != recipe(system_prompt="s").applied_sha256()
    assert recipe().applied_sha256() != recipe(split=SplitShares(70, 20, 10)).applied_sha256()


def shard(split: Split, rows_sha256: str, file: str = "f") -> Shard:
    return Shard(split, ArtifactRef(file * 64, 9), 1, rows_sha256)


def test_the_root_digest_is_over_rows_and_splits_not_over_files() -> None:
    root = root_sha256([shard(Split.TRAIN, "aa"), shard(Split.TEST, "bb")])
    assert root == hashlib.sha256(b"train aa\ntest bb\n").hexdigest()
    assert root == root_sha256([shard(Split.TEST, "bb", "0"), shard(Split.TRAIN, "aa", "1")])
    assert root != root_sha256([shard(Split.VALIDATION, "aa"), shard(Split.TEST, "bb")])


def test_a_manifest_lists_everything() -> None:
    refused_file = ArtifactRef("1" * 64, 5)
    tally = Tally({Split.TRAIN: 1}, {RefusalReason.EMPTY: 2})
    body = json.loads(
        manifest_bytes(
            "projects/p/datasets/d/versions/1",
            recipe(),
            [Source(ArtifactRef("2" * 64, 7, "text/csv", "x.csv"), SourceFormat.CSV)],
            [shard(Split.TRAIN, "aa")],
            tally,
            refused_file,
            ArtifactRef("3" * 64, 6),
        )
    )
    assert body["schema"] == "mainspring.dataset.v1"
    assert body["splits"] == {
        "train": [{"sha256": "f" * 64, "size_bytes": 9, "rows": 1, "rows_sha256": "aa"}],
        "validation": [],
        "test": [],
    }
    assert (body["input_rows"], body["refusals"]) == (3, {"EMPTY": 2})
    assert body["refused"] == {"sha256": "1" * 64, "size_bytes": 5}
    assert body["report"] == {"sha256": "3" * 64, "size_bytes": 6}
    assert body["sources"][0]["filename"] == "x.csv"
    assert "changed" not in body


def test_the_files_of_a_version_are_those_that_its_manifest_names() -> None:
    named = [ArtifactRef(digit * 64, 5, "application/jsonl") for digit in "123"]
    sources = [Source(ArtifactRef("4" * 64, 7, "text/csv", "x.csv"), SourceFormat.CSV)]
    about = (Tally({Split.TRAIN: 1}, {}), *named)
    manifest = Manifest.parse(manifest_bytes("v", recipe(), sources, [shard(Split.TRAIN, "aa")], *about))
    assert manifest.changed == named[2]
    assert {file.sha256[0] for file in manifest.files} == {"f", "1", "2", "3"}


def test_versions_count_from_one() -> None:
    dataset = Dataset("projects/p/datasets/d", NOW)
    assert dataset.latest_version == ""
    dataset, first = dataset.with_version()
    dataset, second = dataset.with_version()
    assert [first, second] == [f"projects/p/datasets/d/versions/{number}" for number in (1, 2)]
    assert dataset.latest_version == second


def test_a_version_knows_what_it_is_made_of() -> None:
    source = Source(ArtifactRef("2" * 64, 7, "text/csv", "x.csv"), SourceFormat.CSV)
    renamed = Source(ArtifactRef("2" * 64, 7, "", "y.csv"), SourceFormat.CSV)
    version = DatasetVersion(
        "projects/p/datasets/d/versions/1", "projects/p/datasets/d", NOW, "root", ArtifactRef("3" * 64, 1),
        "r", "recipe", (source,), Tally({}, {}), None, "", "i",
    )  # fmt: skip
    assert version.is_made_of([renamed], "recipe", "root")
    assert not version.is_made_of([source, source], "recipe", "root")
    assert not version.is_made_of([source], "other", "root")


def test_an_ingestion_that_has_ended_does_not_move() -> None:
    work = Ingestion("projects/p/ingestions/i", recipe(), (), "c", NOW).started(NOW)
    done = work.succeeded("projects/p/datasets/d/versions/1", 3, NOW)
    assert (done.state, done.progress.done) == (IngestionState.SUCCEEDED, 3)
    for move in (done.started, done.cancelled):
        with pytest.raises(IllegalTransition):
            move(NOW)
    assert work.started(NOW).state is IngestionState.RUNNING  # Another worker takes it over.


def test_b5_excerpts_cannot_act_on_a_screen() -> None:
    assert excerpt(b"a\x1b[31m\x00\n\tb\xff\xe2\x80\xae!\n") == "a\\x1b[31m\\x00\\n\\tb\\xff\\u202e!"
    assert len(excerpt("é".encode() * 10_000)) == 500


def test_rules_and_kinds_that_came_later_change_no_recipe_that_names_none() -> None:
    step = recipe_pb2.RecipeStep(quality_filter=recipe_pb2.QualityFilter())
    cleaned = recipe(steps=(step_from_proto(step), PersonalData()))
    assert cleaned.applied_sha256() == "0bec9cf9848d01c43d435eb73b09b0f237d791b28b2a93600ba37e2de58401c6"


def test_a_recipe_without_steps_has_the_digest_that_it_had_before_there_were_steps() -> None:
    assert recipe().applied_sha256() == "f8c7fbc48d6d92383aac9b9bd7d6e70a2950ad92a5e7e617488dc28229af37bc"
    assert "steps" not in recipe().as_json()
    cleaned = recipe(steps=(TextRepair(),))
    assert cleaned.applied_sha256() != recipe().applied_sha256()
    assert cleaned.as_json()["steps"] == ({"part": "ALL", "kind": "text_repair"},)


def text_report(*answers: str) -> TextReport:
    statistics = TextStatistics()
    for answer in answers:
        statistics.add(Draft((Message("user", "a question"), Message("assistant", answer))))
    return statistics.report()


def test_texts_are_described_by_length_diversity_and_labels() -> None:
    found = text_report("yes", "no", "yes", "yes", "perhaps not")
    assert (found.rows, found.prompt.mean_words, found.answer.mean_words) == (5, 2.0, 1.2)
    assert found.answer.words == {1: 4, 2: 1}
    assert found.distinct == {1: round(4 / 6, 4), 2: 1.0, 3: 0.0}
    assert found.labels == {"yes": 3, "no": 1, "perhaps not": 1}


def test_answers_that_are_free_text_are_no_labels() -> None:
    assert text_report(*(f"answer {number}" for number in range(101))).labels is None
    assert text_report("x" * 61).labels is None
    assert text_report().labels is None


@given(st.lists(st.text(max_size=20), max_size=30))
def test_a_report_is_read_as_it_was_written(answers: list[str]) -> None:
    texts = text_report(*answers)
    step = StepReport("length_filter", 2, 1, {RefusalReason.WRONG_LENGTH: 3}, {"x": 1})
    report = Report(9, 4, 2, {RefusalReason.WRONG_LENGTH: 3}, (step,), texts, text_report("a"))
    assert Report.parse(report.as_bytes()) == report
    with pytest.raises(ValueError):
        Report.parse(b'{"schema": "another"}')


def test_the_diversity_of_many_rows_is_that_of_a_sample_of_them() -> None:
    many = [f"word{number} and{number % 7} more{number % 11}" for number in range(5000)]
    found, again = text_report(*many), text_report(*many)
    assert found == again
    assert found.distinct[1] == pytest.approx(1 / 3, abs=0.01)  # 2,000 of 6,000 words: the sample's size bounds it.
