"""Steps that compare rows with other rows: near duplicates, and what an evaluation set holds."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_data_ingest.adapters import steps
from mainspring_data_ingest.adapters.jobs import SourceFile
from mainspring_data_ingest.adapters.steps.near_duplicates import bands_for
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.records import RowRefused
from mainspring_data_ingest.domain.steps import Decontamination, Keep, LengthFilter, NearDuplicates, TextPart
from mainspring_data_ingest.domain.words import runs_of, words_of
from mainspring_svckit.errors import InvalidInput

from .refining import SENTENCE, draft, kept, refined, refused


def test_the_first_of_near_duplicates_stays_and_says_so(tmp_path: Path) -> None:
    rows = [
        {"mr": "q one", "ref": SENTENCE},
        {"mr": "q one", "ref": f"  {SENTENCE.upper().replace(' ', '  ')} !!"},
        {"mr": "q one", "ref": "The Eagle sells coffee for little money."},
        {"mr": "another question", "ref": SENTENCE},
        {"mr": "q one", "ref": SENTENCE},
    ]
    made = refined(tmp_path, rows, NearDuplicates())
    assert sorted(kept(made)) == [1, 3, 4]
    assert refused(made)[2] == ("NEAR_DUPLICATE", "is 100% like line 1, which is kept because it came first")
    assert refused(made)[5][0] == "EXACT_DUPLICATE"


def test_the_longest_of_near_duplicates_stays_when_the_recipe_says_so(tmp_path: Path) -> None:
    rows = [
        {"mr": "q", "ref": SENTENCE},
        {"mr": "q", "ref": f"{SENTENCE} Yes."},
        {"mr": "q", "ref": SENTENCE.upper()},
    ]
    made = refined(tmp_path, rows, NearDuplicates(threshold=0.8, keep=Keep.LONGEST))
    assert sorted(kept(made)) == [2]
    assert refused(made)[1][1].endswith("like line 2, which is kept because it is the longest")


@pytest.mark.parametrize(("part", "again"), [(TextPart.ALL, [4]), (TextPart.PROMPT, [2, 4]), (TextPart.ANSWER, [3, 4])])
def test_near_duplicates_are_those_of_the_part_that_the_recipe_names(
    tmp_path: Path, part: TextPart, again: list[int]
) -> None:
    question = "Which coffee shop near Burger King is cheap and welcomes families with children?"
    rows = [
        {"mr": question, "ref": SENTENCE},
        {"mr": question.upper(), "ref": "Nobody knows, for all of them are closed since last winter."},
        {"mr": "Name one place.", "ref": SENTENCE.upper()},
        {"mr": f"{question} ", "ref": SENTENCE.lower()},
    ]
    made = refined(tmp_path, rows, NearDuplicates(part=part))
    assert sorted(refused(made)) == again
    assert {reason for reason, _ in refused(made).values()} == {"NEAR_DUPLICATE"}


@pytest.mark.parametrize(("shingle_words", "again"), [(1, [2, 3]), (2, [2]), (10, [])])
def test_near_duplicates_are_as_alike_as_their_runs_of_so_many_words(
    tmp_path: Path, shingle_words: int, again: list[int]
) -> None:
    words = SENTENCE.split()
    rows = [
        {"mr": "q", "ref": SENTENCE},
        {"mr": "q", "ref": " ".join([*words[:9], "rather", *words[9:]])},
        {"mr": "q", "ref": " ".join(words[::-1])},
    ]
    made = refined(tmp_path, rows, NearDuplicates(threshold=0.8, shingle_words=shingle_words))
    assert sorted(refused(made)) == again


def test_a_row_that_a_later_step_refuses_makes_nothing_its_duplicate(tmp_path: Path) -> None:
    rows = [
        {"mr": "q", "ref": f"{SENTENCE} Now with many more words."},
        {"mr": "q", "ref": f"{SENTENCE} Now with more."},
    ]
    made = refined(tmp_path, rows, NearDuplicates(threshold=0.6), LengthFilter(max_words=20))
    assert sorted(kept(made)) == [2]
    assert refused(made)[1][0] == "WRONG_LENGTH"


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8, 0.9, 1.0])
def test_near_duplicates_at_the_threshold_are_found_almost_surely(threshold: float) -> None:
    bands = bands_for(threshold)
    assert 1 - (1 - threshold ** (128 // bands)) ** bands >= 0.98


def test_evaluation_data_is_kept_out(tmp_path: Path) -> None:
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text(json.dumps({"mr": "name[The Eagle], area[riverside]", "ref": SENTENCE}) + "\n")
    rows = [
        {"mr": "name[the eagle],  area[riverside]", "ref": "other words"},
        {"mr": "name[The Mill]", "ref": f"Well: {SENTENCE} Indeed it is so."},
        {"mr": "name[The Mill]", "ref": "The Mill is a coffee shop."},
        {"mr": "name[The Mill]", "ref": "The Eagle is a cheap coffee shop near Burger King."},
    ]
    files = [(SourceFile(held_out, "eval", SourceFormat.JSONL, None),)]
    made = refined(tmp_path, rows, Decontamination(ngram_overlap=0.6), held_out=files)
    assert sorted(kept(made)) == [3, 4]
    assert [reason for reason, _ in refused(made).values()] == ["EVALUATION_LEAK"] * 2
    assert made.report.steps[0].found == {"evaluation_examples": 1, "ngram_overlap": 1, "same_prompt": 1}


_TALK = st.lists(st.sampled_from("abcd"), min_size=1, max_size=24).map(" ".join)


@given(_TALK, _TALK, st.integers(1, 9))
def test_decontamination_refuses_exactly_what_shares_a_run(answer: str, held_out: str, size: int) -> None:
    step = steps.build(Decontamination(ngram_words=size, ngram_overlap=1e-9), [draft(held_out, prompt="e")])
    assert step is not None
    shared = runs_of(words_of(f"q {answer}"), size) & runs_of(words_of(f"e {held_out}"), size)
    if shared:
        with pytest.raises(RowRefused):
            step.apply(draft(answer))
    else:
        step.apply(draft(answer))


def test_an_evaluation_set_without_examples_is_refused(tmp_path: Path) -> None:
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text('{"question": "q"}\n')
    files = [(SourceFile(held_out, "eval", SourceFormat.JSONL, None),)]
    with pytest.raises(InvalidInput) as caught:
        refined(tmp_path, [{"mr": "q", "ref": "a"}], Decontamination(), held_out=files)
    assert caught.value.reason == "EVALUATION_SET_EMPTY"
