"""Tasks of lm-evaluation-harness with examples before the question, and with choices that are compared.

What its own code (0.4.13: `lm_eval/api/samplers.py`, `process_results`) makes of the same rows stands here as figures.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mainspring_evaluator.adapters.item_files import HostItemFiles
from mainspring_evaluator.application.surprise import most_probable
from mainspring_evaluator.domain.items import Item
from mainspring_evaluator.domain.suites import EvaluationSuite, ItemSource, Retrieval, Sampling
from mainspring_svckit.values import NO_UNIT, Message, ServedUnit

from .fakes import BASE, FIRST, FakeInference
from .test_item_files import refused, write
from .test_use_cases import SUITE, World

ROWS = [{"q": f"T{number}", "a": f"A{number}"} for number in range(8)]
SPLITS = "dataset_path: json\ndataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}\n"
ASKED = SPLITS + "doc_to_text: q\ndoc_to_target: a\n"


def lines(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    write(folder, name, "".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines(tmp_path, "train.jsonl", ROWS)
    lines(tmp_path, "test.jsonl", [{"q": f"Q{number}", "a": f"B{number}"} for number in range(3)])
    return tmp_path


async def shown(folder: Path, text: str, seed: int = 7) -> list[list[str]]:
    """The questions of each item's examples."""
    items = await HostItemFiles([folder]).harness(write(folder, "task.yaml", text), seed)
    return [[turn.content for turn in item.prompt[:-1] if turn.role == "user"] for item in items]


async def test_examples_are_turns_before_the_question_and_drawn_as_the_harness_draws_them(folder: Path) -> None:
    text = ASKED + "description: Answer.\nnum_fewshot: 2\nfewshot_split: train\ntest_split: test\n"
    assert await shown(folder, text) == [["T5", "T1"], ["T6", "T5"], ["T0", "T7"]]
    assert await shown(folder, text, seed=8) != await shown(folder, text)
    first, *_ = await HostItemFiles([folder]).harness("task.yaml", 7)
    assert first == Item(
        (
            Message("system", "Answer."),
            *(Message("user", "T5"), Message("assistant", "A5"), Message("user", "T1"), Message("assistant", "A1")),
            Message("user", "Q0"),
        ),
        ("B0",),
    )
    assert first.question == "Q0", "slices and the search for what was learned look at the question alone"


async def test_an_item_is_never_among_its_own_examples(folder: Path) -> None:
    lines(folder, "test.jsonl", ROWS[:5])
    asked = ASKED + "num_fewshot: 2\ntest_split: test\nfewshot_split: test\n"
    drawn = [["T2", "T1"], ["T0", "T4"], ["T0", "T3"], ["T0", "T1"], ["T0", "T3"]]
    assert await shown(folder, asked) == drawn
    in_order = [["T1", "T2"], ["T0", "T2"], ["T0", "T1"], ["T0", "T1"], ["T0", "T1"]]
    assert await shown(folder, asked + "fewshot_config: {sampler: first_n}\n") == in_order
    lines(folder, "train.jsonl", ROWS[:3])
    for sampler in ("default", "first_n"):
        text = ASKED + f"num_fewshot: 2\nfewshot_split: train\nfewshot_config: {{sampler: {sampler}}}\n"
        for item, examples in zip(ROWS[:5], await shown(folder, text), strict=True):
            assert len(examples) == 2
            assert item["q"] not in examples, "the harness shows it, where it stands in both splits"


async def test_examples_without_a_split_are_those_of_training_and_may_stand_in_the_task(folder: Path) -> None:
    asked = ASKED + "num_fewshot: 1\n"
    assert all(question.startswith("T") for (question,) in await shown(folder, asked + "training_split: train\n"))
    samples = "fewshot_config: {sampler: first_n, doc_to_text: 'S: {{ q }}', samples: [{q: x, a: y}]}\n"
    assert await shown(folder, asked + samples) == [["S: x"]] * 3
    assert await shown(folder, asked + f"{samples}fewshot_split: train\n") == [["S: T0"]] * 3


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("num_fewshot: -1\n", "num_fewshot must be"),
        ("num_fewshot: many\n", "num_fewshot must be"),
        ("num_fewshot: 9\nfewshot_split: train\n", "num_fewshot asks for 9 examples, and there are 8"),
        ("num_fewshot: 1\nfewshot_split: none\n", "data_files has no split 'none'"),
        ("num_fewshot: 1\nfewshot_config: {samples: yes}\n", "samples must be a list"),
        ("num_fewshot: 1\nfewshot_config: {samples: [{a: y}], doc_to_text: '{{ q }}'}\n", "sample 1: the template"),
        ("num_fewshot: 1\nfewshot_config: {samples: [{q: x, a: ''}]}\n", "sample 1: an example must have an answer"),
        ("num_fewshot: 1\nfewshot_config: yes\n", "task.yaml: TypeError"),
    ],
)
async def test_b1_examples_that_cannot_be_had_are_told(folder: Path, more: str, told: str) -> None:
    assert told in await refused(folder, write(folder, "task.yaml", ASKED + more))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("fewshot_config: {sampler: balanced}\n", "fewshot_config.sampler"),
        ("fewshot_config: {fewshot_indices: [1]}\n", "fewshot_config.fewshot_indices"),
        ("fewshot_config: {gen_prefix: A}\n", "fewshot_config.gen_prefix"),
    ],
)
async def test_what_is_not_done_for_examples_is_refused_by_its_name(folder: Path, more: str, named: str) -> None:
    path = write(folder, "task.yaml", ASKED + f"num_fewshot: 1\n{more}")
    assert named in await refused(folder, path, "TASK_UNSUPPORTED")
    write(folder, "task.yaml", ASKED + more)
    assert len(await HostItemFiles([folder]).harness("task.yaml")) == 3, "without examples nothing asks for it"


CHOOSES = "output_type: multiple_choice\ndoc_to_text: q\n"


@pytest.mark.parametrize(
    ("row", "fields", "choices", "right"),
    [
        ({"q": "x", "c": ["a", "b"], "l": 1}, "doc_to_choice: c\ndoc_to_target: l\n", ("a", "b"), (1,)),
        ({"q": "x", "l": "1"}, "doc_to_choice: ['1', '2']\ndoc_to_target: l\n", ("1", "2"), (0,)),
        ({"q": "x", "l": "1"}, "doc_to_choice: ['1', '2']\ndoc_to_target: '{{ l }}'\n", ("1", "2"), (1,)),
        ({"q": "x", "l": "no"}, "doc_to_choice: {y: 'yes', n: 'no'}\ndoc_to_target: l\n", ("yes", "no"), (1,)),
        ({"q": "x", "s": "a b"}, "doc_to_choice: '{{ s.split() }}'\ndoc_to_target: 0\n", ("a", "b"), (0,)),
        ({"q": "x", "l": [0, 2]}, "doc_to_choice: [a, b, c]\ndoc_to_target: l\n", ("a", "b", "c"), (0, 2)),
        ({"q": "x", "l": 2}, "doc_to_choice: [a, b, c]\ndoc_to_target: '{{ [l, 0] }}'\n", ("a", "b", "c"), (2, 0)),
    ],
)
async def test_choices_and_what_is_right_are_read_as_the_harness_reads_them(
    tmp_path: Path, row: dict[str, Any], fields: str, choices: tuple[str, ...], right: tuple[int, ...]
) -> None:
    lines(tmp_path, "rows.jsonl", [row])
    path = write(
        tmp_path, "t.yaml", f"dataset_path: json\ndataset_kwargs: {{data_files: rows.jsonl}}\n{CHOOSES}{fields}"
    )
    (item,) = await HostItemFiles([tmp_path]).harness(path)
    assert (item.question, item.choices, item.right) == ("x", choices, right)
    assert item.references == tuple(choices[place] for place in right)
    assert item.sha256 != replace(item, right=()).sha256, "what is right is part of what was measured on"


async def test_a_label_in_a_table_of_text_chooses_by_its_place(tmp_path: Path) -> None:
    write(tmp_path, "rows.csv", "q,l\nx,1\n")
    fields = (
        "doc_to_choice: ['1', '2']\ndoc_to_target: l\nnum_fewshot: 1\nfewshot_config: {samples: [{q: y, l: '0'}]}\n"
    )
    path = write(tmp_path, "t.yaml", f"dataset_path: csv\ndataset_kwargs: {{data_files: rows.csv}}\n{CHOOSES}{fields}")
    (item,) = await HostItemFiles([tmp_path]).harness(path)
    assert (item.right, item.prompt[1].content) == ((1,), "1")


@pytest.mark.parametrize(
    ("row", "fields", "told"),
    [
        ({"q": "x", "l": 0}, "doc_to_target: l\n", "multiple_choice needs doc_to_choice"),
        ({"q": "x", "l": 0}, "doc_to_choice: [a, '']\ndoc_to_target: l\n", "none of the choices empty"),
        ({"q": "x", "l": 2}, "doc_to_choice: [a, b]\ndoc_to_target: l\n", "the target 2 is none of its 2 choices"),
        ({"q": "x", "l": "c"}, "doc_to_choice: [a, b]\ndoc_to_target: l\n", "the target c is none of its 2 choices"),
        ({"q": "x", "l": 0}, "doc_to_choice: '{{ 1 / 0 }}'\ndoc_to_target: l\n", "ZeroDivisionError"),
        ({"q": "x", "l": 0}, "doc_to_choice: 'open(1)'\ndoc_to_target: l\n", "rows.jsonl line 1: malformed"),
        ({"q": "x", "c": ["\ud800"], "l": 0}, "doc_to_choice: c\ndoc_to_target: l\n", "surrogates not allowed"),
    ],
)
async def test_b1_choices_that_nobody_can_choose_from_are_told_with_their_row(
    tmp_path: Path, row: dict[str, Any], fields: str, told: str
) -> None:
    lines(tmp_path, "rows.jsonl", [row])
    path = write(
        tmp_path, "t.yaml", f"dataset_path: json\ndataset_kwargs: {{data_files: rows.jsonl}}\n{CHOOSES}{fields}"
    )
    said = await refused(tmp_path, path)
    assert "rows.jsonl line 1: " in said
    assert told in said


async def test_a_choice_of_questions_is_refused_by_its_name(tmp_path: Path) -> None:
    lines(tmp_path, "rows.jsonl", [{"q": 1, "l": "x"}])
    fields = "doc_to_choice: [a, b]\ndoc_to_target: l\n"
    path = write(
        tmp_path, "t.yaml", f"dataset_path: json\ndataset_kwargs: {{data_files: rows.jsonl}}\n{CHOOSES}{fields}"
    )
    assert "doc_to_text that is a number" in await refused(tmp_path, path, "TASK_UNSUPPORTED")


@pytest.mark.parametrize(
    ("choices", "nats", "right", "found"),
    [
        (("longer", "no"), (2.0, 1.0), (1,), (True, False)),
        (("longer", "no"), (2.0, 1.0), (0,), (False, True)),
        (("same", "same"), (1.0, 1.0), (1,), (False, False)),
        (("a", "b", "c"), (3.0, 2.0, 2.0), (0, 1), (True, True)),
    ],
)
def test_the_most_probable_choice_is_found_as_the_harness_finds_it(
    choices: tuple[str, ...], nats: tuple[float, ...], right: tuple[int, ...], found: tuple[bool, bool]
) -> None:
    """`np.argmax(lls)` and `np.argmax(lls / completion_len)`: of equal ones the first."""
    assert most_probable(Item((Message("user", "q"),), (), choices=choices, right=right), nats) == found


class Choosing(FakeInference):
    """The first version finds the right word likelier, the base the longer one."""

    async def score(
        self,
        version: str,
        prompt: Sequence[Message],
        text: str,
        *,
        context: Retrieval | None = None,
        unit: ServedUnit = NO_UNIT,
    ) -> Sequence[float]:
        self.scored.append((version, text))
        if prompt[-1].content == "forbidden":
            return []
        likely = text == "fig" if version == FIRST else len(text) > 3
        return [math.log(0.5 if likely else 0.1)] * 2


async def test_choices_are_compared_by_the_engines_probabilities_and_asked_for_once() -> None:
    world = World(inference=Choosing())
    world.inference.said = {version: lambda prompt: "words" for version in (FIRST, BASE)}
    world.item_files.tasks["t.yaml"] = [
        Item((Message("user", f"q{number}"),), ("fig",), choices=("fig", "banana"), right=(0,)) for number in range(4)
    ]
    suite: EvaluationSuite = replace(
        SUITE,
        scorers=("choice_accuracy", "choice_accuracy_norm", "perplexity"),
        sources=(ItemSource("t", harness_path="t.yaml"),),
        sampling=Sampling(seed=3),
    )
    run = await world.run(suite=suite)
    assert run.findings is not None
    found = {result.scorer: result for result in run.findings.results}
    assert (found["choice_accuracy"].candidate.value, found["choice_accuracy"].test) == (1, "mcnemar")
    assert found["choice_accuracy"].baseline is not None
    assert found["choice_accuracy"].baseline.value == 0
    assert len(world.inference.scored) == 2 * 4 * 2, "perplexity needs no figure that the choices have"
    assert world.item_files.seeds == [3]
    world.inference.scored.clear()
    again = await world.run(suite=suite)
    assert again.findings is not None
    assert again.findings.results == run.findings.results
    assert world.inference.scored == []


async def test_a_suite_without_choices_has_nothing_to_compare() -> None:
    world = World()
    run = await world.run(suite=replace(SUITE, scorers=("rouge_l", "choice_accuracy")))
    assert run.findings is not None
    assert {failure.scorer: failure.reason for failure in run.findings.failures} == {
        "choice_accuracy": "NOTHING_TO_SCORE"
    }


async def test_b3_probabilities_that_are_no_numbers_cost_the_choices_alone() -> None:
    world = World()
    world.inference.says_nan = {FIRST}
    world.inference.said = {version: lambda prompt: "fig" for version in (FIRST, BASE)}
    world.item_files.tasks["t.yaml"] = [
        Item((Message("user", f"q{number}"),), ("fig",), choices=("fig", "pear"), right=(0,)) for number in range(3)
    ]
    suite = replace(
        SUITE, scorers=("accuracy", "choice_accuracy_norm"), sources=(ItemSource("t", harness_path="t.yaml"),)
    )
    run = await world.run(suite=suite)
    assert run.findings is not None
    assert [result.scorer for result in run.findings.results] == ["accuracy"]
    (failure,) = run.findings.failures
    assert (failure.scorer, failure.reason) == ("choice_accuracy_norm", "SCORE_NOT_FINITE")


async def test_where_a_guard_refuses_the_question_no_choice_is_right() -> None:
    world = World(inference=Choosing())
    world.inference.said = {version: lambda prompt: "words" for version in (FIRST, BASE)}
    world.item_files.tasks["t.yaml"] = [
        Item((Message("user", question),), ("fig",), choices=("fig", "banana"), right=(0,))
        for question in ("allowed", "forbidden")
    ]
    suite = replace(SUITE, scorers=("choice_accuracy",), sources=(ItemSource("t", harness_path="t.yaml"),))
    run = await world.run(suite=suite)
    assert run.findings is not None
    (result,) = run.findings.results
    assert (result.candidate.value, result.items) == (0.5, 2)
