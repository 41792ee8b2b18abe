"""Advice: the gain of a rung with its interval, and which rung is recommended."""

from __future__ import annotations

import pytest

from mainspring_client.advice import BASE, EXAMPLES, PROBE, Advice, Gain, Rung, conclude, gain_over
from mainspring_svckit.errors import PreconditionFailed


def rung(name: str, gain: Gain | None, *, passes: bool = False, score: float = 0.1) -> Rung:
    return Rung(name, "projects/p/evaluationRuns/r", score, gain, passes, 0, 0.5)


def advice(*rungs: Rung) -> Advice:
    made = Advice("rouge_l", 0.02, "", rungs=list(rungs), tuning={"seconds": 600.0})
    conclude(made)
    return made


def test_a_gain_is_of_the_questions_that_both_answered_and_the_same_every_time() -> None:
    base = {f"q{number}": 0.2 for number in range(40)}
    better = {f"q{number}": 0.4 + number % 3 / 10 for number in range(10, 50)}
    gain = gain_over(base, better)
    assert gain == gain_over(base, better)
    assert gain.low < gain.value < gain.high
    assert gain.value == pytest.approx(0.3, abs=0.01)
    assert gain.low > 0.2


def test_no_question_in_common_is_no_comparison() -> None:
    with pytest.raises(PreconditionFailed, match="no question in common"):
        gain_over({"a": 1.0}, {"b": 1.0})


def test_the_cheapest_rung_that_passes_is_recommended() -> None:
    gain = Gain(0.2, 0.1, 0.3)
    both = advice(rung(BASE, None), rung(EXAMPLES, gain, passes=True), rung(PROBE, gain, passes=True))
    assert (both.recommended, both.text.startswith("do not tune yet")) == (EXAMPLES, True)
    tune = advice(rung(BASE, None), rung(EXAMPLES, gain), rung(PROBE, gain, passes=True))
    assert tune.recommended == PROBE
    assert "about 10 min" in tune.text


def test_without_a_rung_that_passes_the_advice_says_so() -> None:
    none = advice(rung(BASE, None), rung(PROBE, Gain(0.01, -0.1, 0.1), score=0.2))
    assert none.recommended == ""
    assert "no rung" in none.text
    assert PROBE in none.text
