import json
import math
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_evaluator.domain import fidelity
from mainspring_evaluator.domain.items import ItemSelection, answer_key, prompt_digest, storable
from mainspring_evaluator.domain.runs import RUN_STATES, EvaluationRun, Findings, Latency, RunState
from mainspring_evaluator.domain.suites import EvaluationSuite, Sampling
from mainspring_svckit.errors import IllegalTransition, PreconditionFailed
from mainspring_svckit.values import Estimate, Fidelity, Message, ScorerResult
from mainspring_testkit.contracts.states import assert_as_declared

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SUITE = EvaluationSuite("projects/p/evaluationSuites/s", "projects/p/models/m", ("rouge_l",))
RUN = EvaluationRun("projects/p/evaluationRuns/r", SUITE, "projects/p/models/m/versions/1", NOW)
ESTIMATE = Estimate(0.5, 0.4, 0.6, 0.95)


def row(question: str, answer: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer)]


def test_the_state_machine_is_as_the_contract_says() -> None:
    assert_as_declared(RUN_STATES, "evaluation/v1/run.proto", "EvaluationRun")


def test_a_run_taken_over_keeps_its_start_and_one_that_ended_cannot_change() -> None:
    later = datetime(2026, 1, 2, tzinfo=UTC)
    started = RUN.started(NOW)
    assert started.started(later) == started
    failed = started.failed("NO_TEST_ROWS", "none", later)
    assert (failed.state, failed.end_time) == (RunState.FAILED, later)
    for change in (failed.cancelled, failed.started):
        with pytest.raises(IllegalTransition):
            change(later)


def test_the_suites_digest_is_of_all_that_it_says_and_of_nothing_else() -> None:
    assert len(SUITE.sha256) == 64
    assert SUITE.sha256 == replace(SUITE).sha256
    changes = [
        replace(SUITE, scorers=("bleu",)),
        replace(SUITE, max_items=3),
        replace(SUITE, sampling=Sampling(seed=1)),
        replace(SUITE, confidence_level=0.9),
    ]
    assert len({SUITE.sha256, *(suite.sha256 for suite in changes)}) == 5


def test_rows_with_the_same_question_are_one_item_with_several_references() -> None:
    selection = ItemSelection(0)
    for answer in ("a", "b"):
        selection.add(row("x", answer))
    selection.add([Message("system", "s"), *row("x", "c")])
    assert sorted(item.references for item in selection.items()) == [("a", "b"), ("c",)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=120), st.integers(1, 50), st.randoms(use_true_random=False))
def test_the_same_items_are_kept_in_whatever_order_rows_come(
    questions: list[int], most: int, shuffle: random.Random
) -> None:
    def kept(order: list[int]) -> list[tuple[str, int]]:
        selection = ItemSelection(most)
        for question in order:
            selection.add(row(f"q{question}", "a"))
        return [(item.prompt[0].content, len(item.references)) for item in selection.items()]

    first = kept(questions)
    shuffled = list(questions)
    shuffle.shuffle(shuffled)
    assert kept(shuffled) == first
    assert len(first) == min(most, len(set(questions)))
    assert all(count == questions.count(int(question[1:])) for question, count in first)


def test_a_selection_stays_the_same_and_small_while_rows_go_by() -> None:
    few, many = ItemSelection(5), ItemSelection(0)
    for number in range(5_000):
        few.add(row(str(number), "a"))
        many.add(row(str(number), "a"))
    assert few.items() == many.items()[:5]
    assert len(few._found) <= 5  # pyright: ignore[reportPrivateUsage] - that memory is bounded shows only here.


@pytest.mark.parametrize("messages", [[], [Message("user", "q")], [Message("user", "q"), Message("tool", "x")]])
def test_b9_a_row_that_is_no_conversation_is_refused(messages: list[Message]) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        ItemSelection(0).add(messages)
    assert caught.value.reason == "DATASET_UNREADABLE"


def test_an_answers_key_is_of_what_the_answer_depends_on() -> None:
    prompt = (Message("user", "q"),)
    base = answer_key("m", prompt, Sampling(64))
    assert base == answer_key("m", prompt, Sampling(64, 0.0, 7)), "a seed means nothing at temperature 0"
    others = {
        answer_key("n", prompt, Sampling(64)),
        answer_key("m", (Message("system", "q"),), Sampling(64)),
        answer_key("m", prompt, Sampling(65)),
        answer_key("m", prompt, Sampling(64, 0.5, 1)),
        answer_key("m", prompt, Sampling(64, 0.5, 2)),
    }
    assert len({base, *others}) == 6
    assert prompt_digest((Message("user", "ab"),)) != prompt_digest((Message("user", "a"), Message("user", "b")))


def test_b5_what_postgres_cannot_hold_is_replaced() -> None:
    assert storable("a\x00b\U0001f600") == "a\ufffdb\U0001f600"


def logs(**probabilities: float) -> dict[int, float]:
    return {ord(name): math.log(p) for name, p in probabilities.items()}


def test_equal_distributions_diverge_by_nothing() -> None:
    same = logs(a=0.5, b=0.3, c=0.1)
    assert fidelity.kl_nats(same, same) == pytest.approx(0)
    found = fidelity.compare([(same, same)])
    assert found is not None
    assert (found.top1_agreement, found.positions) == (1.0, 1)


def test_divergence_is_as_computed_by_hand_with_the_tail_in_one_outcome() -> None:
    reference, engine = logs(a=0.6, b=0.3), logs(a=0.5, b=0.2, c=0.3)
    by_hand = 0.6 * math.log(0.6 / 0.5) + 0.3 * math.log(0.3 / 0.2) + 0.1 * math.log(0.1 / 0.3)
    assert fidelity.kl_nats(reference, engine) == pytest.approx(by_hand)


def test_an_engine_that_lists_none_of_the_references_tokens_is_far_away() -> None:
    assert fidelity.kl_nats(logs(a=0.9, b=0.05), logs(x=0.9, y=0.01)) > 1.0
    found = fidelity.compare([(logs(a=0.9), logs(a=0.8)), (logs(a=0.9), logs(b=0.8))])
    assert found is not None
    assert (found.top1_agreement, found.positions) == (0.5, 2)
    assert fidelity.compare([]) is None


@given(
    st.dictionaries(st.integers(0, 9), st.floats(0.01, 1), min_size=1),
    st.dictionaries(st.integers(0, 9), st.floats(0.01, 1), min_size=1),
)
def test_divergence_is_finite_and_never_negative(first: dict[int, float], second: dict[int, float]) -> None:
    def distribution(weights: dict[int, float]) -> dict[int, float]:
        return {token: math.log(weight / sum(weights.values())) for token, weight in weights.items()}

    found = fidelity.kl_nats(distribution(first), distribution(second))
    assert found >= 0
    assert math.isfinite(found)


def test_a_probe_is_read_back() -> None:
    document = {"schema": fidelity.PROBE_SCHEMA, "positions": [{"prefix": "once", "top": [[7, -0.1], [9, -3.0]]}]}
    assert fidelity.parse_probe(json.dumps(document).encode()) == (fidelity.Position("once", {7: -0.1, 9: -3.0}),)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"schema": "other", "positions": []}',
        b'{"schema": "mainspring.fidelity_probe.v1", "positions": [{"prefix": "", "top": [[1, -1]]}]}',
        b'{"schema": "mainspring.fidelity_probe.v1", "positions": [{"prefix": "a", "top": [1]}]}',
    ],
)
def test_b1_a_damaged_probe_is_refused(data: bytes) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        fidelity.parse_probe(data)
    assert caught.value.reason == "PROBE_UNREADABLE"


@pytest.mark.parametrize(
    "findings",
    [
        Findings((ScorerResult("bleu", "s", replace(ESTIMATE, high=math.nan)),), 1, None, Latency(1, 1)),
        Findings((ScorerResult("bleu", "s", ESTIMATE, ESTIMATE, ESTIMATE, math.nan),), 1, None, Latency(1, 1)),
        Findings((), 1, Fidelity(math.inf, 1, 1), Latency(1, 1)),
    ],
)
def test_figures_that_are_no_numbers_do_not_leave(findings: Findings) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        findings.check()
    assert caught.value.reason == "RESULT_NOT_FINITE"
