"""Scores are what the libraries' own corpus functions say, and intervals are what they claim to be."""

import csv
import itertools
import os
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from mainspring_evaluator.adapters.scorers import SCORERS
from mainspring_evaluator.adapters.scoring import NAMES, ThreadScoring
from mainspring_evaluator.application.ports import Measured
from mainspring_evaluator.domain.items import Answer, Item, Sample
from mainspring_evaluator.domain.suites import EvaluationSuite, Price
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import Estimate, Message

# A file of the E2E challenge (columns mr, ref), whose inputs have several references each; made-up data when unset.
E2E = os.environ.get("MAINSPRING_E2E", "")
OVERLAP = ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l")
SMALL = [
    ("The cat sat on the mat.", ["The cat sat on the mat.", "A cat was sitting on a mat."]),
    ("", ["Nothing was said here."]),
    ("Dogs are running, quickly!", ["Two dogs run quickly.", "The dogs ran.", "Dogs, running quickly!"]),
    ("It rains in Spain.", ["The rain in Spain stays mainly in the plain."]),
    ("ok", ["ok"]),
    ("Größe zählt nicht, 日本語も。", ["Größe zählt, 日本語も。", "Auf die Größe kommt es nicht an."]),
]


def items_of(references: Sequence[Sequence[str]]) -> list[Item]:
    return [Item((Message("user", str(index)),), tuple(of_item)) for index, of_item in enumerate(references)]


def suite(**changes: object) -> EvaluationSuite:
    return replace(EvaluationSuite("projects/p/evaluationSuites/s", "projects/p/models/m", OVERLAP), **changes)  # type: ignore[arg-type]


async def measure(
    answers: Sequence[str], other: Sequence[str] | None, references: Sequence[Sequence[str]], **changes: object
) -> Measured:
    items = items_of(references)

    def samples(texts: Sequence[str]) -> list[Sample]:
        return [Sample(item, Answer(text, 0.5)) for item, text in zip(items, texts, strict=True)]

    return await ThreadScoring().measure(
        suite(**changes), samples(answers), samples(other) if other is not None else None
    )


def by_the_libraries(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    streams = [list(stream) for stream in zip_longest(*references)]
    rouge, aggregator = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True), BootstrapAggregator()
    total = dict.fromkeys(("rouge1", "rouge2", "rougeL"), 0.0)
    for answer, of_item in zip(answers, references, strict=True):
        scores = rouge.score_multi(list(of_item), answer)
        aggregator.add_scores(scores)
        for kind, score in scores.items():
            total[kind] += score.fmeasure
    for kind, interval in aggregator.aggregate().items():
        # rouge-score's own corpus function gives a mean only by resampling; ours is what it scatters around.
        assert interval.low.fmeasure - 1e-9 <= total[kind] / len(answers) <= interval.high.fmeasure + 1e-9
    return {
        "bleu": BLEU(force=True).corpus_score(answers, streams).score,
        "chrf": CHRF().corpus_score(answers, streams).score,
        "rouge_1": total["rouge1"] / len(answers),
        "rouge_2": total["rouge2"] / len(answers),
        "rouge_l": total["rougeL"] / len(answers),
    }


def many() -> tuple[list[str], list[list[str]]]:
    """Items with several references, each answered by one of its own or of another item."""
    if E2E:
        with Path(E2E).open(newline="") as file:
            rows = sorted((row["mr"], row["ref"]) for row in csv.DictReader(file))
        groups = [[ref for _, ref in group] for _, group in itertools.groupby(rows, key=lambda row: row[0])]
    else:
        rng = random.Random(3)
        words = [*"abcdef", "sit", "sits", "sitting", "quickly,", "slowly.", "and", ",", "it's", "far-away"]
        groups = [[" ".join(rng.choices(words, k=rng.randint(3, 25))) for _ in range(1 + n % 5)] for n in range(60)]
    answers = [group[-1] if index % 3 else groups[index - 1][0] for index, group in enumerate(groups)]
    return answers, [group[:-1] or group for group in groups]


def test_the_names_known_without_loading_are_those_that_there_are() -> None:
    assert tuple(SCORERS) == NAMES


def test_the_guide_names_scorers_that_there_are() -> None:
    guide = Path(__file__).parents[3] / "docs" / "guides" / "evaluation-and-release.md"
    blocks = "\n".join(re.findall(r"```yaml\n(.*?)```", guide.read_text(), re.DOTALL))
    named = {name for listed in re.findall(r"scorers: \[(.*?)\]", blocks) for name in listed.split(", ")}
    named |= set(re.findall(r"scorer: (\w+)", blocks))
    assert {"rouge_l", "bleu", "false_refusal", "judge_rubric"} <= named <= set(NAMES)


@pytest.mark.parametrize("data", ["small", "many"])
async def test_points_are_what_the_libraries_own_corpus_functions_say(data: str) -> None:
    answers, references = many() if data == "many" else ([a for a, _ in SMALL], [r for _, r in SMALL])
    measured = await measure(answers, None, references, bootstrap_resamples=100)
    expected = by_the_libraries(answers, references)
    assert {result.scorer: result.candidate.value for result in measured.results} == pytest.approx(expected, rel=1e-9)
    assert all(result.baseline is None and result.difference is None for result in measured.results)
    signatures = {result.scorer: result.signature for result in measured.results}
    assert signatures["bleu"].startswith("BLEU|nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "stemmer:yes" in signatures["rouge_l"]


async def test_scores_of_items_are_the_libraries_scores_of_sentences() -> None:
    answers, references = [a for a, _ in SMALL], [r for _, r in SMALL]
    measured = await measure(answers, answers, references, bootstrap_resamples=100)
    for index, (answer, of_item) in enumerate(SMALL):
        scores = measured.candidate_scores[index]
        assert scores["bleu"] == pytest.approx(BLEU(effective_order=True).sentence_score(answer, of_item).score)
        assert scores["chrf"] == pytest.approx(CHRF().sentence_score(answer, of_item).score)
        assert 0 <= scores["rouge_l"] <= 1
    assert measured.baseline_scores == measured.candidate_scores


async def test_i7_a_rerun_gives_the_same_numbers() -> None:
    answers, references = many()
    other = [references[index - 1][0] for index in range(len(answers))]
    first = await measure(answers, other, references)
    assert await measure(answers, other, references) == first


async def test_a_clearly_better_system_is_found_better_and_an_equal_one_is_not() -> None:
    rng = random.Random(1)
    words = [f"word{number}" for number in range(200)]
    references = [[" ".join(rng.sample(words, 12))] for _ in range(60)]

    def spoiled(text: str, share: float) -> str:
        return " ".join(rng.choice(words) if rng.random() < share else word for word in text.split())

    good = [spoiled(of_item[0], 0.2) for of_item in references]
    equal = [spoiled(of_item[0], 0.2) for of_item in references]
    bad = [spoiled(of_item[0], 0.6) for of_item in references]
    for result in (await measure(good, bad, references)).results:
        assert result.difference is not None
        assert result.baseline is not None
        assert result.difference.value == pytest.approx(result.candidate.value - result.baseline.value)
        assert result.difference.low > 0
        assert result.p_value < 0.01
        for estimate in (result.candidate, result.baseline, result.difference):
            assert estimate.low <= estimate.value <= estimate.high
    for result in (await measure(good, equal, references)).results:
        assert result.difference is not None
        assert result.difference.low < 0 < result.difference.high
        assert result.p_value > 0.05
    for result in (await measure(good, good, references)).results:
        assert result.difference == Estimate(0, 0, 0, 0.95)
        assert result.p_value == 1


async def test_a_higher_confidence_makes_wider_intervals() -> None:
    answers, references = many()
    narrow = await measure(answers, None, references, confidence_level=0.5)
    wide = await measure(answers, None, references, confidence_level=0.99)
    for a, b in zip(narrow.results, wide.results, strict=True):
        assert b.candidate.low < a.candidate.low <= a.candidate.high < b.candidate.high


async def test_empty_answers_are_scored_and_one_item_is_enough() -> None:
    measured = await measure(["", ""], ["", "x"], [["a b c"], ["x"]], bootstrap_resamples=100)
    assert [result.candidate.value for result in measured.results] == [0] * 5
    single = await measure(["a b c d e"], None, [["a b c d e"]], bootstrap_resamples=100)
    for result in single.results:
        assert result.candidate.low == result.candidate.value == result.candidate.high


async def test_three_items_prove_nothing_however_far_apart_the_systems_are() -> None:
    right = ["the cat sat on it", "it rained all day", "we went home late"]
    measured = await measure(right, ["no"] * 3, [[text] for text in right])
    for result in measured.results:
        assert result.difference is not None
        assert result.difference.low > 0
        assert min(result.p_value, result.test_p_value) > 0.2


async def test_an_unknown_scorer_is_refused() -> None:
    with pytest.raises(PreconditionFailed) as caught:
        await measure(["a"], None, [["a"]], scorers=("meteor",))
    assert caught.value.reason == "UNKNOWN_SCORER"


def said(text: str, *references: str) -> Sample:
    return Sample(Item((Message("user", "q"),), references), Answer(text, 0.5))


def took(latency_s: float, first_token_s: float = 0.0, input_tokens: int = 0, output_tokens: int = 0) -> Sample:
    item = Item((Message("user", "q"),), ())
    return Sample(item, Answer("x", latency_s, first_token_s, input_tokens, output_tokens))


SCHEMA = '{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}'
CLASSES = [said("The cat!", "cat"), said("dog", "cat"), said("dog", "dog"), said("fish", "bird")]
WORDS = [said("the cat sat here", "dogs", "a cat sat"), said("", "x"), said("the", "A.")]
EXACT = [said("  Yes ", "No", "Yes"), said("yes", "Yes"), said("Yes.", "Yes"), said("Yes")]
JSON = [
    said('{"a": 1}'),
    said('```json\n{"a": 2}\n```'),
    said('{"a": "x"}'),
    said('{"a": NaN}'),
    said("no"),
    said("[1]"),
]
TIMES = [took(1.0, 0.2, 1_000, 5), took(3.0, 0.4, 500, 27), took(0.0)]


@pytest.mark.parametrize(
    ("scorer", "samples", "of_items", "of_all"),
    [
        # F1 of cat is 2 / (2 + 1 missed), of dog 2 / (2 + 1 wrong), of bird 0; a fish is no class.
        ("macro_f1", CLASSES, [1, 0, 1, 0], 4 / 9),
        # Without articles "cat sat here" and "cat sat" have two words in common, of three and two.
        ("token_f1", WORDS, [0.8, 0, 1], 0.6),
        ("exact_match", EXACT, [1, 0, 0, None], 1 / 3),
        ("accuracy", EXACT, [1, 1, 1, None], 1),
        ("json_schema", JSON, [1, 1, 0, 0, 0, 0], 1 / 3),
        ("latency", TIMES, [1, 3, None], 2),
        ("first_token_latency", TIMES, [0.2, 0.4, None], 0.3),
        # 0.8 s for 4 tokens and 2.6 s for 26; all tokens together, not the mean of the answers.
        ("token_latency", TIMES, [0.2, 0.1, None], 3.4 / 30),
        # 2 for a million tokens read, 10 for a million said.
        ("cost", TIMES, [0.00205, 0.00127, None], 0.00166),
    ],
)
async def test_scorers_that_count_give_the_values_that_a_hand_works_out(
    scorer: str, samples: list[Sample], of_items: list[float | None], of_all: float
) -> None:
    asked = suite(scorers=(scorer,), json_schema=SCHEMA, price=Price(2, 10), bootstrap_resamples=100)
    measured = await ThreadScoring().measure(asked, samples, None)
    assert measured.failures == ()
    (result,) = measured.results
    assert result.candidate.value == pytest.approx(of_all)
    assert [scores.get(scorer) for scores in measured.candidate_scores] == [
        value if value is None else pytest.approx(value) for value in of_items
    ]
    assert result.items == sum(value is not None for value in of_items)
    assert result.lower_is_better == (samples is TIMES)
