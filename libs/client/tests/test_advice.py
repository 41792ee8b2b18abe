"""Advice: the gate's rules as a few answers can tell them, and which rung is recommended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from mainspring.common.v1 import access_pb2, statistics_pb2
from mainspring.evaluation.v1 import run_pb2, suite_pb2
from mainspring.registry.v1 import release_pb2
from mainspring_client.advice import BASE, EXAMPLES, PROBE, Advice, Rung, answers_of, conclude, scoring_of
from mainspring_client.advice_gate import Answers, Check, Gain, Gate, Margin, checked, gain_over, gate_of, unmeasured
from mainspring_svckit.errors import PreconditionFailed

GAIN = Gain(0.2, 0.1, 0.3)
GATE = Gate("rouge_l", 0.02, margins=(Margin("exact_match", 0.1),))


def rung(name: str, gain: Gain | None, *broken: str, passes: bool = False, score: float = 0.1) -> Rung:
    checks = [Check(rule, False, "it falls") for rule in broken]
    return Rung(name, "projects/p/evaluationRuns/r", score, gain, passes, 0, 0.5, checks=checks)


def advice(*rungs: Rung) -> Advice:
    made = Advice("rouge_l", 0.02, "", rungs=list(rungs), tuning={"seconds": 600.0})
    conclude(made)
    return made


def answers(count: int = 40, part: int = 0, **scores: float) -> Answers:
    """The same scores for every question, the first `part` of which are in a slice."""
    by_scorer = {scorer: {f"q{n}": score + n % 2 / 100 for n in range(count)} for scorer, score in scores.items()}
    return Answers(by_scorer, {"long": frozenset(f"q{n}" for n in range(part))})


def kept(checks: list[Check]) -> Mapping[str, bool | None]:
    return {check.rule: check.kept for check in checks}


def test_a_gain_is_of_the_questions_that_both_answered_and_the_same_every_time() -> None:
    base = {f"q{number}": 0.2 for number in range(40)}
    better = {f"q{number}": 0.4 + number % 3 / 10 for number in range(10, 50)}
    gain = gain_over(base, better)
    assert gain == gain_over(base, better)
    assert gain.low < gain.value < gain.high
    assert gain.value == pytest.approx(0.3, abs=0.01)
    assert gain.low > 0.2
    assert gain_over(base, better, 0.5).low > gain.low


def test_no_question_in_common_is_no_comparison() -> None:
    with pytest.raises(PreconditionFailed, match="no question in common"):
        gain_over({"a": 1.0}, {"b": 1.0})


def test_what_may_not_fall_is_looked_at_beside_what_must_improve() -> None:
    base = answers(rouge_l=0.2, exact_match=0.5)
    good, costly = answers(rouge_l=0.3, exact_match=0.45), answers(rouge_l=0.3, exact_match=0.35)
    assert kept(checked(GATE, base, good)) == {"primary:rouge_l": True, "guard:exact_match": True}
    assert kept(checked(GATE, base, costly)) == {"primary:rouge_l": True, "guard:exact_match": False}


@pytest.mark.parametrize(("min_gain", "passes"), [(0.02, False), (0.0, False), (-0.01, True)])
def test_the_base_passes_a_gate_that_asks_for_no_gain(min_gain: float, passes: bool) -> None:
    base = answers(rouge_l=0.2, exact_match=0.5)
    found = kept(checked(replace(GATE, min_gain=min_gain), base, base))
    assert found == {"primary:rouge_l": passes, "guard:exact_match": True}


def test_a_slice_is_looked_at_where_enough_questions_are_in_it() -> None:
    gate = replace(GATE, margins=(Margin("rouge_l", 0.0, "long"),), min_slice_items=10)
    base, better = answers(part=12, rouge_l=0.2), answers(part=12, rouge_l=0.3)
    assert kept(checked(gate, base, better))["slice:rouge_l@long"] is True
    few = checked(replace(gate, min_slice_items=30), base, better)
    assert kept(few)["slice:rouge_l@long"] is None
    (said,) = unmeasured(gate, few)
    assert "12 of the questions are in it, and 30 are needed" in said


def test_what_cannot_be_told_breaks_nothing_and_is_named_once() -> None:
    gate = replace(GATE, min_items=50, max_mean_kl_nats=0.1, unmeasured=("approvals: later",))
    base = answers(rouge_l=0.2)
    checks = [*checked(gate, base, base), *checked(gate, base, answers(rouge_l=0.3))]
    assert kept(checks) == {"primary:rouge_l": True, "items": None, "guard:exact_match": None, "fidelity": None}
    rules = [text.partition(":")[0] for text in unmeasured(gate, checks)]
    assert rules == ["approvals", "items", "guard", "fidelity"]
    tuned = replace(answers(rouge_l=0.3), mean_kl_nats=0.2)
    assert kept(checked(gate, base, tuned))["fidelity"] is False


def test_a_policy_says_what_is_asked_and_what_answers_cannot_tell() -> None:
    policy = release_pb2.ReleasePolicy(
        name="projects/p/releasePolicies/r",
        primary_scorer="rouge_l",
        min_gain=-0.02,
        guards=[
            release_pb2.GuardRule(scorer="exact_match", margin=0.1),
            release_pb2.GuardRule(scorer="judge_preference"),
            release_pb2.GuardRule(scorer="faithfulness"),
        ],
        slices=[release_pb2.SliceRule(scorer="chrf", slice="long", margin=0.2)],
        further_suites=[release_pb2.SuiteRule(evaluation_suite="projects/p/evaluationSuites/safety")],
        max_adjusted_p_value=0.05,
        approvals=[release_pb2.ApprovalRule(role=access_pb2.ROLE_RELEASER, count=1)],
        unit=release_pb2.ServingUnit(prompt_version="projects/p/prompts/q/versions/1"),
        min_items=30,
        max_mean_kl_nats=0.2,
        min_confidence_level=0.9,
    )
    gate = gate_of(policy, suite_pb2.EvaluationSuite(min_slice_items=7))
    assert gate.margins == (Margin("exact_match", 0.1), Margin("chrf", 0.2, "long"))
    assert gate.scorers == ["rouge_l", "exact_match", "chrf"]
    assert (gate.min_gain, gate.min_items, gate.min_slice_items, gate.level) == (-0.02, 30, 7, 0.9)
    assert [text.partition(":")[0] for text in gate.unmeasured] == [
        "guard",
        "guard",
        "suite safety",
        "significance",
        "unit",
        "approvals",
    ]


def test_a_suite_scores_rungs_as_it_scores_versions() -> None:
    suite = suite_pb2.EvaluationSuite(
        name="projects/p/evaluationSuites/s",
        scorers=["rouge_l"],
        json_schema="{}",
        slices=[suite_pb2.Slice(id="long", min_prompt_words=9)],
        sampling=suite_pb2.Sampling(max_output_tokens=64),
        max_items=5,
    )
    assert scoring_of(suite) == {
        "json_schema": "{}",
        "slices": [{"id": "long", "min_prompt_words": 9}],
        "sampling": {"max_output_tokens": 64},
    }


def test_less_is_better_counts_downwards_and_questions_are_in_their_slices() -> None:
    item = run_pb2.EvaluationItem(candidate_scores={"rouge_l": 0.5, "ter": 0.25}, slices=["long"])
    item.messages.add(content="why?")
    run = run_pb2.EvaluationRun(results=[statistics_pb2.ScorerResult(scorer="ter", lower_is_better=True)])
    found = answers_of(run, [item])
    assert found == Answers({"rouge_l": {"why?": 0.5}, "ter": {"why?": -0.25}}, {"long": frozenset({"why?"})})
    run.fidelity.mean_kl_nats = 0.25
    assert answers_of(run, [item]).mean_kl_nats == 0.25


def test_the_cheapest_rung_that_passes_is_recommended() -> None:
    everything = advice(rung(BASE, None, passes=True), rung(PROBE, GAIN, passes=True))
    assert (everything.recommended, everything.text.startswith("use the base as it is")) == (BASE, True)
    both = advice(rung(BASE, None), rung(EXAMPLES, GAIN, passes=True), rung(PROBE, GAIN, passes=True))
    assert (both.recommended, both.text.startswith("do not tune yet")) == (EXAMPLES, True)
    tune = advice(rung(BASE, None), rung(EXAMPLES, GAIN), rung(PROBE, GAIN, passes=True))
    assert tune.recommended == PROBE
    assert "about 10 min" in tune.text


def test_without_a_rung_that_passes_the_advice_says_so() -> None:
    weak = rung(PROBE, Gain(0.01, -0.1, 0.1), "primary:rouge_l", score=0.2)
    none = advice(rung(BASE, None, "primary:rouge_l"), weak)
    assert none.recommended == ""
    assert none.text.startswith("no rung lifts")
    assert PROBE in none.text
    costly = advice(rung(BASE, None, "primary:rouge_l"), rung(PROBE, GAIN, "guard:exact_match", score=0.2))
    assert costly.recommended == ""
    assert costly.text.startswith("no rung keeps all rules; the best was lora probe, which breaks guard:exact_match")
