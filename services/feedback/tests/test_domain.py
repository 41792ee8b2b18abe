import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_feedback.domain.answers import Answer, Turn, may_be_on_its_way
from mainspring_feedback.domain.judgements import Example, Judgement, Kind, check_comparable, example_of
from mainspring_feedback.domain.triggers import RetrainingTrigger, Wishes
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.ids import new_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANSWER = Answer(
    "projects/p/answers/a",
    "projects/p/models/m",
    "projects/p/models/m/versions/1",
    "",
    (Turn("user", "q"),),
    "said",
    NOW,
)
TRIGGER = RetrainingTrigger("projects/p/retrainingTriggers/t", ANSWER.model, "projects/p/ingestionRecipes/r", 3)


def test_a_young_answer_may_be_on_its_way() -> None:
    answer_id, now = new_id(), datetime.now(UTC)
    for seconds, young in ((0, True), (59, True), (61, False), (-30, True), (-90, False)):
        assert may_be_on_its_way(answer_id, now + timedelta(seconds=seconds)) is young, seconds


@pytest.mark.parametrize("answer_id", ["a", "", str(uuid.uuid4()), "0" * 36, "7" * 32])
def test_ids_without_a_time_are_of_nothing_on_its_way(answer_id: str) -> None:
    assert not may_be_on_its_way(answer_id, datetime.now(UTC))


@given(st.text())
def test_b1_any_id_has_an_answer(answer_id: str) -> None:
    assert may_be_on_its_way(answer_id, NOW) in {True, False}


def test_corrections_preferences_and_thumbs_are_lessons() -> None:
    correction = Judgement(Kind.CORRECTION, 0, correction="better")
    preference = Judgement(Kind.PREFERENCE, 1, rejected_answer="projects/p/answers/b")
    worse, silent = replace(ANSWER, text="worse"), replace(ANSWER, text=" ")
    assert example_of(correction, ANSWER) == Example("better", "said")
    assert example_of(correction, silent) == Example("better")
    assert example_of(replace(correction, correction="said"), ANSWER) == Example("said")
    assert example_of(preference, ANSWER, worse) == Example("said", "worse")
    assert example_of(preference, ANSWER, ANSWER) == example_of(preference, ANSWER, silent) == Example("said")
    assert example_of(preference, silent, worse) is None
    assert example_of(Judgement(Kind.THUMB, 1), ANSWER) == Example("said", desirable=True)
    assert example_of(Judgement(Kind.THUMB, 0), ANSWER) == Example("said", desirable=False)
    assert example_of(Judgement(Kind.THUMB, 1), silent) is None
    assert example_of(Judgement(Kind.SCORE, 1), ANSWER) is None


def test_without_content_nothing_is_learned() -> None:
    silent = replace(ANSWER, messages=(), text="")
    assert example_of(Judgement(Kind.CORRECTION, 0, correction="better"), silent) is None


def test_only_answers_to_the_same_messages_compare() -> None:
    other = replace(ANSWER, name="projects/p/answers/b", text="said otherwise")
    check_comparable(ANSWER, other)
    with pytest.raises(InvalidInput, match="itself"):
        check_comparable(ANSWER, ANSWER)
    with pytest.raises(InvalidInput, match="different messages"):
        check_comparable(ANSWER, replace(other, messages=(Turn("user", "q2"),)))


def test_a_firing_takes_everything_up_to_now() -> None:
    waiting = replace(TRIGGER, pending_items=3, taken=4)
    assert waiting.is_due
    fired, firing = waiting.fired(9, "cycle", NOW)
    assert (firing.after, firing.until, firing.number) == (4, 9, 1)
    assert (fired.pending_items, fired.taken, fired.last_fire_time, fired.is_due) == (0, 9, NOW, False)
    again, second = replace(fired, pending_items=3).fired(12, "cycle 2", NOW)
    assert (second.after, second.until, second.number) == (9, 12, 2)
    assert again.firings == 2


def test_other_wishes_keep_what_waits_and_another_model_does_not() -> None:
    waiting = replace(TRIGGER, pending_items=2, taken=4, firings=1)
    changed = waiting.configured(Wishes(waiting.model, "projects/p/ingestionRecipes/x", 2))
    assert (changed.pending_items, changed.taken, changed.min_items, changed.is_due) == (2, 4, 2, True)
    moved = waiting.configured(Wishes("projects/p/models/other", waiting.ingestion_recipe, 2))
    assert (moved.pending_items, moved.taken, moved.firings) == (0, 0, 1)
