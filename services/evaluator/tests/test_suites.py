"""What suites can say: sources, slices, budgets, judges, plug-ins; and what becomes of a scorer that fails."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mainspring.events.v1.evaluation_events_pb2 import EvaluationRunCompleted
from mainspring_evaluator.adapters.postgres import PostgresAnswers
from mainspring_evaluator.adapters.scoring import ThreadScoring
from mainspring_evaluator.application.planning import Planning
from mainspring_evaluator.domain.drift import Asked
from mainspring_evaluator.domain.items import Answer, Item, Prompt, Sample
from mainspring_evaluator.domain.runs import EvaluationRun, RunState
from mainspring_evaluator.domain.suites import (
    Budget,
    Comparison,
    EvaluationSuite,
    ItemSource,
    Judge,
    JudgePanel,
    Price,
    Retrieval,
    SafetySet,
    Slice,
    Split,
)
from mainspring_evaluator.transport import mapping, suites
from mainspring_svckit.errors import ConcurrentChange, InvalidInput, PreconditionFailed
from mainspring_svckit.pagination import Page
from mainspring_svckit.values import Message, ScorerResult
from mainspring_testkit.plugin import DatabaseFor

from .fakes import BASE, DATA, FIRST, MODEL, OTHER_DATA, ROWS, SECOND
from .test_use_cases import SUITE, World

JUDGE, SECOND_JUDGE = "projects/p/models/judge/versions/1", "projects/p/models/judge/versions/2"
FROZEN = ItemSource("frozen", dataset_version=OTHER_DATA)


@pytest.fixture
def world() -> World:
    made = World()
    for version, digest in ((JUDGE, "mj"), (SECOND_JUDGE, "mk")):
        made.catalogue.versions[version] = replace(made.catalogue.versions[BASE], name=version, manifest_sha256=digest)
    return made


def results(run: EvaluationRun) -> dict[str, ScorerResult]:
    assert run.findings is not None
    return {result.scorer: result for result in run.findings.results}


def failures(run: EvaluationRun) -> dict[str, str]:
    assert run.findings is not None
    return {failure.scorer: failure.reason for failure in run.findings.failures}


async def test_a_suites_contents_are_counted_and_each_stays_readable(world: World) -> None:
    first = await world.suites.put(SUITE, etag="", allow_missing=True)
    same = await world.suites.put(SUITE, etag="", allow_missing=True)
    second = await world.suites.put(replace(SUITE, max_items=2), etag="", allow_missing=True)
    assert [stored.value.version for stored in (first, same, second)] == [1, 1, 2]
    listed = await world.ports.suite_versions.list(SUITE.name, Page(10, None))
    assert [row.value.suite.max_items for row in listed.items] == [2, 0]
    shown = suites.suite_version_to_proto(listed.items[0].value)
    assert (shown.name, shown.sha256) == (f"{SUITE.name}/versions/2", second.value.sha256)
    run = await world.run()
    assert mapping.run_to_proto(run).suite_version == 3, "the old contents came back, as a version of their own"


def test_i7_the_digest_of_a_suite_outlives_what_suites_learned_to_say() -> None:
    assert SUITE.sha256 == replace(SUITE, version=7).sha256
    old = EvaluationSuite("projects/p/evaluationSuites/s", "projects/p/models/m", ("rouge_l",))
    # As it was before suites had sources, slices and the rest.
    assert old.sha256 == "bbf753ccf8d2128b6e448fa2c2c8d0c4c028f63575e6c3562427f65d2a5b9610"


def test_every_part_of_a_suite_survives_the_wire() -> None:
    panel = JudgePanel((Judge("a", JUDGE), Judge("b", SECOND_JUDGE)), "be strict", 0.0, 5, 0.0)
    full = replace(
        SUITE,
        scorers=("judge_rubric", "json_schema", "cost", "embedding_similarity", "faithfulness"),
        sources=(
            FROZEN,
            ItemSource("train", "Be brief.", dataset_version=DATA, split=Split.TRAIN, max_items=3),
            ItemSource("attacks", safety_set=SafetySet.JAILBREAK),
            ItemSource("other", harness_path="arc/easy.yaml"),
        ),
        slices=(Slice("long", "x", 2, 9),),
        min_slice_items=7,
        json_schema="{}",
        embedding_model_version=BASE,
        judges=panel,
        budget=Budget(100, 1.5, 0.25),
        price=Price(0.5, 1.5),
        allow_training_overlap=True,
        comparison=Comparison.PARENT,
        context=Retrieval("projects/p/collections/c", 4),
    )
    assert suites.suite_from_proto(suites._said_by(full)) == full  # pyright: ignore[reportPrivateUsage] - printing without a store.


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scorers": ("cost",)}, "price"),
        ({"budget": Budget(max_cost=1)}, "price"),
        ({"scorers": ("json_schema",)}, "json_schema"),
        ({"scorers": ("judge_rubric",)}, "judges"),
        ({"scorers": ("embedding_similarity",)}, "embedding_model_version"),
        ({"sources": (FROZEN,), "dataset_version": DATA}, "dataset_version"),
        ({"sources": (FROZEN, FROZEN)}, "sources"),
        ({"slices": (Slice("a"), Slice("a"))}, "slices"),
    ],
)
async def test_a_suite_whose_scorers_lack_what_they_need_is_refused(
    world: World, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.suites.put(replace(SUITE, **changes), etag="", allow_missing=True)
    assert caught.value.reason == "SUITE_INVALID"
    assert [violation.field for violation in caught.value.violations] == [f"evaluation_suite.{field}"]


async def test_b9_a_suite_that_asks_what_the_candidate_learned_is_refused_with_the_rows(world: World) -> None:
    world.datasets.training[DATA] = [
        [Message("user", "something else"), Message("assistant", "x")],
        [Message("system", "s"), Message("user", "  BLUE "), Message("assistant", "learned")],
    ]
    suite = replace(SUITE, sources=(FROZEN,))
    with pytest.raises(PreconditionFailed) as caught:
        await world.run(suite=suite)
    assert caught.value.reason == "SUITE_OVERLAPS_TRAINING"
    assert "train line 2 of source 0" in caught.value.message
    assert (await world.run(suite=replace(suite, allow_training_overlap=True))).state is RunState.SUCCEEDED
    assert (await world.run()).state is RunState.SUCCEEDED, "splits of one version never share a question"


async def test_b9_data_of_an_adapter_that_was_merged_into_the_candidate_counts_as_learned(world: World) -> None:
    other = "projects/p/datasets/merged/versions/1"
    world.datasets.training[other] = [[Message("user", "blue"), Message("assistant", "learned")]]
    known = world.catalogue.versions
    known[FIRST] = replace(known[FIRST], also_learned=(other,))
    with pytest.raises(PreconditionFailed, match="projects/p/datasets/merged/versions/1 that ask") as caught:
        await world.run(suite=replace(SUITE, sources=(FROZEN,)))
    assert caught.value.reason == "SUITE_OVERLAPS_TRAINING"


async def test_b9_what_the_candidate_was_made_from_learned_counts_too_through_every_step(world: World) -> None:
    older = "projects/p/datasets/older/versions/1"
    world.datasets.training[older] = [[Message("user", "blue"), Message("assistant", "learned")]]
    known, suite = world.catalogue.versions, replace(SUITE, sources=(FROZEN,))
    assert (await world.run(suite=suite)).state is RunState.SUCCEEDED
    # The candidate is a smaller one of the second, which went on from a third, which had learned it.
    third = f"{MODEL}/versions/3"
    known[third] = replace(known[SECOND], name=third, dataset_version=older)
    known[SECOND] = replace(known[SECOND], parent=third)
    known[FIRST] = replace(known[FIRST], parent=SECOND, dataset_version="")
    with pytest.raises(
        PreconditionFailed, match=f"{third}, which {FIRST} was made from, learned from 1 rows of {older}"
    ):
        await world.run(suite=suite)
    known[third] = replace(known[third], parent=FIRST, dataset_version="")
    assert (await world.run(suite=suite)).state is RunState.SUCCEEDED, "a ring ends"


async def test_items_of_several_sources_are_told_apart_and_slices_say_when_they_are_too_few(world: World) -> None:
    world.item_files.sets[SafetySet.OVER_REFUSAL] = [
        Item((Message("user", "red"),), (), safety=SafetySet.OVER_REFUSAL),
        Item((Message("user", "green"), Message("user", "blue")), (), safety=SafetySet.OVER_REFUSAL),
    ]
    suite = replace(
        SUITE,
        scorers=("rouge_l", "false_refusal", "attack_success"),
        sources=(
            ItemSource("data", "Be brief.", dataset_version=DATA),
            ItemSource("benign", safety_set=SafetySet.OVER_REFUSAL),
        ),
        slices=(Slice("blue", prompt_contains="BLUE"), Slice("never", min_prompt_words=50)),
        min_slice_items=2,
    )
    run = await world.run(suite=suite)
    rouge, refused = results(run)["rouge_l"], results(run)["false_refusal"]
    assert (rouge.items, refused.items) == (3, 2)
    assert refused.lower_is_better
    assert {part.slice: (part.items, part.too_few_items) for part in rouge.slices} == {
        "blue": (1, True),
        "never": (0, True),
        "task:data": (3, False),
        "task:benign": (0, True),
    }
    assert failures(run) == {"attack_success": "NOTHING_TO_SCORE"}
    items = [stored.value for stored in world.items.rows.values()]
    assert {item.task for item in items} == {"data", "benign"}
    assert all(item.prompt[0] == Message("system", "Be brief.") for item in items if item.task == "data")
    assert {item.slices for item in items} == {(), ("blue",)}


async def test_a_source_that_is_not_there_fails_the_run_with_its_reason(world: World) -> None:
    for source, reason in (
        (ItemSource("a", safety_set=SafetySet.JAILBREAK), "SAFETY_SET_MISSING"),
        (ItemSource("a", harness_path="none.yaml"), "TASK_UNREADABLE"),
    ):
        with pytest.raises(PreconditionFailed) as caught:
            await world.run(suite=replace(SUITE, sources=(source,)))
        assert caught.value.reason == reason


async def test_a_run_beyond_its_budget_fails_and_what_it_answered_is_kept(world: World) -> None:
    suite = replace(SUITE, budget=Budget(max_generated_tokens=15))
    with pytest.raises(PreconditionFailed) as caught:
        await world.run(suite=suite)
    assert caught.value.reason == "BUDGET_EXCEEDED"
    kept = len(world.answers.rows)
    assert 0 < kept < 6
    run = await world.run(suite=replace(suite, budget=Budget(max_generated_tokens=1_000)))
    assert run.findings is not None
    assert len(world.inference.asked) == 6, "nothing was asked twice"
    assert run.findings.generated_answers < 6


async def test_a_run_may_cost_no_more_than_its_suite_allows(world: World) -> None:
    price = Price(per_million_input_tokens=100, per_million_output_tokens=1_000)
    suite = replace(SUITE, price=price, budget=Budget(max_cost=0.01))
    with pytest.raises(PreconditionFailed, match=r"used answers for 0\.01\d*, its suite allows 0\.01") as caught:
        await world.run(suite=suite)
    assert caught.value.reason == "BUDGET_EXCEEDED"
    assert len(world.answers.rows) < 6
    assert (await world.run(suite=replace(suite, budget=Budget(max_cost=1)))).state is RunState.SUCCEEDED
    digest = replace(SUITE, budget=Budget(5)).sha256
    assert digest == "54904d193d450c6bac031cfebd6cd47e305c7a6ed9cd7ecf31db1bdfb456bdb6", (
        "as it was before budgets knew of costs"
    )


async def test_forgetting_is_measured_against_what_the_candidate_was_made_from(world: World) -> None:
    world.catalogue.released = FIRST
    world.catalogue.versions[SECOND] = replace(world.catalogue.versions[SECOND], parent="")
    run = await world.run(candidate=SECOND, suite=replace(SUITE, comparison=Comparison.PARENT))
    assert run.subjects is not None
    assert run.subjects.baseline == BASE
    assert (await world.run(candidate=SECOND)).subjects.baseline == FIRST  # type: ignore[union-attr]


async def test_embeddings_and_first_tokens_are_asked_for_once(world: World) -> None:
    suite = replace(
        SUITE, scorers=("embedding_similarity", "calibration_error", "accuracy"), embedding_model_version=BASE
    )
    run = await world.run(suite=suite)
    found = results(run)
    assert found["embedding_similarity"].candidate.value == 1
    assert found["accuracy"].test == "mcnemar"
    assert found["calibration_error"].candidate.value == pytest.approx(0.1), "all right, and 0.9 sure"
    assert found["calibration_error"].baseline.value == pytest.approx(0.3)  # type: ignore[union-attr]
    texts = len(world.embeddings.texts)
    again = await world.run(suite=suite)
    assert len(world.embeddings.texts) == texts
    assert results(again) == found
    world.embeddings.failure = PreconditionFailed("MODEL_IS_NO_EMBEDDER", "it generates")
    world.observations.rows.clear()
    assert failures(await world.run(suite=suite)) == {"embedding_similarity": "MODEL_IS_NO_EMBEDDER"}


async def test_perplexity_is_that_of_the_references_and_is_asked_for_once(world: World) -> None:
    suite = replace(SUITE, scorers=("perplexity",))
    run = await world.run(suite=suite)
    (found,) = results(run).values()
    assert found.lower_is_better
    assert found.candidate.value == pytest.approx(2), "every token has probability one half"
    assert found.baseline is not None
    assert found.baseline.value == pytest.approx(4)
    assert sorted(world.inference.scored) == sorted(
        (version, answer) for version in (FIRST, BASE) for _, answer in ROWS
    )
    world.inference.scored.clear()
    assert results(await world.run(suite=suite))["perplexity"] == found
    assert world.inference.scored == []


async def test_i7_confidence_and_perplexity_are_measured_with_the_passages_of_the_answers(world: World) -> None:
    context = Retrieval("projects/p/collections/c")
    suite = replace(SUITE, scorers=("accuracy", "calibration_error", "perplexity"))
    await world.run(suite=replace(suite, context=context))
    assert all(asked_with == {context} for asked_with in world.inference.contexts.values())
    scored = len(world.inference.scored)
    await world.run(suite=suite)
    assert len(world.inference.scored) == 2 * scored, "figures with passages are not taken for figures without"
    assert all(asked_with == {context, None} for asked_with in world.inference.contexts.values())
    await world.run(suite=replace(suite, context=context))
    assert len(world.inference.scored) == 2 * scored


async def test_b3_what_is_no_number_costs_its_own_scorer_and_is_not_kept(world: World) -> None:
    asked = ("embedding_similarity", "calibration_error", "perplexity")
    suite = replace(SUITE, scorers=("bleu", *asked), embedding_model_version=BASE)
    world.inference.says_nan, world.embeddings.says_nan = {FIRST}, True
    run = await world.run(suite=suite)
    assert (run.state, set(results(run))) == (RunState.SUCCEEDED, {"bleu"})
    assert failures(run) == dict.fromkeys(asked, "SCORE_NOT_FINITE")
    assert world.observations.rows == {}
    world.inference.says_nan, world.embeddings.says_nan = set(), False
    assert failures(await world.run(suite=suite)) == {}


def by_length(prompt: Prompt) -> str:
    """A judge that likes long answers: consistent in both orders."""
    text = prompt[-1].content
    if "<answer-A>" in text:
        first = text.split("<answer-A>\n")[1].split("\n</answer-A>")[0]
        second = text.split("<answer-B>\n")[1].split("\n</answer-B>")[0]
        return "EQUAL" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    if "<answer>" in text:
        return "5" if len(text.split("<answer>\n")[1].split("\n</answer>")[0]) > 12 else "1"
    return "Yes." if "blue" in text else "no"


PANEL = JudgePanel((Judge("long", JUDGE),), min_labels=2)


async def test_a_judge_scores_and_compares_in_both_orders(world: World) -> None:
    world.inference.said[JUDGE] = by_length
    suite = replace(SUITE, scorers=("judge_rubric", "judge_preference"), judges=PANEL)
    run = await world.run(suite=suite)
    found = results(run)
    assert (found["judge_rubric"].candidate.value, found["judge_rubric"].baseline.value) == (1, 0)  # type: ignore[union-attr]
    assert (found["judge_preference"].candidate.value, found["judge_preference"].baseline.value) == (1, 0)  # type: ignore[union-attr]
    assert run.findings is not None
    (judge,) = run.findings.judges
    assert (judge.judge, judge.nonsense, judge.order_contradictions, judge.has_vote, judge.kappa) == (
        "long",
        0,
        0,
        True,
        None,
    )
    assert "unproven" in judge.explanation
    (told,) = world.outbox.emitted
    assert isinstance(told, EvaluationRunCompleted)
    assert list(told.judge_model_versions) == [JUDGE], "who judged can be traced"
    assert world.shards.stages == ["candidate", "baseline", *["judge long"] * 2], "replicas share a judge's questions"
    asked = len(world.inference.asked)
    await world.run(suite=suite)
    assert len(world.inference.asked) == asked, "verdicts are kept"
    assert mapping.run_to_proto(run).judges[0].has_vote


async def test_judges_are_asked_within_the_suites_budget_and_their_verdicts_are_kept(world: World) -> None:
    world.inference.said[JUDGE] = by_length
    await world.run()
    answers = len(world.answers.rows)
    suite = replace(SUITE, scorers=("rouge_l", "judge_rubric"), judges=PANEL, budget=Budget(max_generated_tokens=1))
    with pytest.raises(PreconditionFailed, match="its suite allows 1") as caught:
        await world.run(suite=suite)
    assert caught.value.reason == "BUDGET_EXCEEDED"
    assert 1 < len(world.answers.rows) - answers < 6
    run = await world.run(suite=replace(suite, budget=Budget(max_generated_tokens=4)))
    assert results(run)["judge_rubric"].candidate.value == 1
    assert len(world.answers.rows) - answers == 6


@pytest.mark.parametrize("scorer", ["embedding_similarity", "calibration_error", "perplexity"])
async def test_the_time_of_a_budget_bounds_figures_that_others_are_asked_for(world: World, scorer: str) -> None:
    await world.run()
    suite = replace(SUITE, scorers=("rouge_l", scorer), embedding_model_version=BASE)
    with pytest.raises(PreconditionFailed, match="used 0 s, its suite allows 1e-09") as caught:
        await world.run(suite=replace(suite, budget=Budget(max_duration_s=1e-9)))
    assert caught.value.reason == "BUDGET_EXCEEDED"
    assert world.observations.rows, "what was said until then is kept"
    run = await world.run(suite=replace(suite, budget=Budget(max_duration_s=600)))
    assert (failures(run), set(results(run))) == ({}, {"rouge_l", scorer})


async def test_a_conflict_while_judges_are_asked_is_tried_again_and_is_no_failure_of_a_judge(world: World) -> None:
    answer, conflicts = world.shards.do, [ConcurrentChange("SERIALIZATION", "somebody else was there")]
    assert answer is not None

    async def conflict_once(shard: str) -> None:
        if world.shards.rows[shard].stage.startswith("judge") and conflicts:
            raise conflicts.pop()
        await answer(shard)

    world.shards.do = conflict_once
    world.inference.said[JUDGE] = by_length
    suite = replace(SUITE, scorers=("judge_rubric",), judges=PANEL)
    with pytest.raises(ConcurrentChange):
        await world.run(suite=suite)
    assert failures(await world.run(suite=suite)) == {}


async def test_a_judge_that_decides_by_the_order_says_equal(world: World) -> None:
    world.inference.said[JUDGE] = lambda prompt: "A"
    run = await world.run(suite=replace(SUITE, scorers=("judge_preference",), judges=PANEL))
    assert results(run)["judge_preference"].candidate.value == 0.5
    assert run.findings is not None
    assert run.findings.judges[0].order_contradictions == 3


async def test_a_judge_that_answers_nonsense_is_counted_named_and_loses_its_vote(world: World) -> None:
    world.inference.said[JUDGE] = by_length
    world.inference.said[SECOND_JUDGE] = lambda prompt: "As a large model I find both 3 and 4 lovely \x00"
    both = replace(PANEL, judges=(Judge("long", JUDGE), Judge("odd", SECOND_JUDGE)))
    run = await world.run(suite=replace(SUITE, scorers=("judge_rubric",), judges=both))
    assert run.findings is not None
    good, odd = run.findings.judges
    assert (good.has_vote, odd.has_vote, odd.judge) == (True, False, "odd")
    assert odd.nonsense == odd.questions == 6
    assert results(run)["judge_rubric"].candidate.value == 1
    alone = replace(PANEL, judges=(Judge("odd", SECOND_JUDGE),))
    failed = await world.run(suite=replace(SUITE, scorers=("judge_rubric", "rouge_l"), judges=alone))
    assert failures(failed) == {"judge_rubric": "JUDGES_WITHOUT_VOTE"}
    assert "rouge_l" in results(failed)


@pytest.mark.parametrize(("people_like", "has_vote"), [("long", True), ("short", False)])
async def test_a_judge_below_the_wanted_kappa_has_no_vote(world: World, people_like: str, has_vote: bool) -> None:
    world.inference.said[JUDGE] = by_length
    answers = ["a long answer indeed", "yes", "another long answer", "no"]
    for number, said in enumerate(answers):
        good = (len(said) > 12) is (people_like == "long")
        await world.traffic.add(Asked(f"a{number}", MODEL, FIRST, (("user", "red"),), said, 0.1, 3, good))
    run = await world.run(suite=replace(SUITE, scorers=("judge_rubric",), judges=PANEL))
    assert run.findings is not None
    (judge,) = run.findings.judges
    assert (judge.has_vote, judge.labels, judge.kappa) == (has_vote, 4, 1 if has_vote else -1)
    assert ("judge_rubric" in results(run)) is has_vote


async def test_groundedness_is_asked_sentence_by_sentence(world: World) -> None:
    world.inference.said[JUDGE] = by_length
    world.inference.passages = ("the sky is blue", "grass")
    suite = replace(
        SUITE,
        scorers=("faithfulness", "context_precision", "context_recall"),
        judges=PANEL,
        context=Retrieval("projects/p/collections/c"),
    )
    found = results(await world.run(suite=suite))
    assert set(found) == {"faithfulness", "context_precision", "context_recall"}
    assert found["faithfulness"].candidate.value == 1, "the passages speak of blue"
    assert found["context_precision"].candidate.value == 1, "the useful passage came first"


async def test_two_runs_stand_side_by_side_and_tell_what_more_items_would_show(world: World) -> None:
    right = dict(ROWS)
    world.inference.said[FIRST] = lambda prompt: right[prompt[-1].content] if prompt[-1].content != "red" else "so red"
    first, second = await world.run(), await world.run(candidate=BASE, suite=replace(SUITE, dataset_version=DATA))
    planning = Planning(world.ports)
    found = await planning.side_by_side(first.name, second.name, Page(2, None))
    assert (found.common_items, len(found.pairs.pairs)) == (3, 2)
    rouge = next(each for each in found.scorers if each.scorer == "rouge_l")
    assert (rouge.first_higher, rouge.second_higher, rouge.equal) == (2, 1, 0)
    assert rouge.difference.value < 0
    rest = await planning.side_by_side(first.name, second.name, Page(2, found.pairs.next_key))
    assert (len(rest.pairs.pairs), rest.scorers) == (1, ())
    wanted = {
        "standard_deviation": 0.0,
        "scorer": "bleu",
        "effect": 1.0,
        "items": 0,
        "power": 0.0,
        "confidence_level": 0.0,
    }
    (size,) = await planning.sample_sizes("projects/p", evaluation_run=first.name, **wanted)  # type: ignore[arg-type]
    assert (size.scorer, size.items) == ("bleu", 3)
    assert size.minimum_detectable_effect > 0
    assert size.items_needed > 3
    wanted |= {"standard_deviation": 2.0, "scorer": "", "items": 100}
    (size,) = await planning.sample_sizes("projects/p", evaluation_run="", **wanted)  # type: ignore[arg-type]
    assert size.minimum_detectable_effect == pytest.approx(0.588, abs=0.001)
    assert size.items_needed == 35
    with pytest.raises(InvalidInput):
        await planning.sample_sizes("projects/q", evaluation_run=first.name, **wanted)  # type: ignore[arg-type]


PLUGIN = """
class Scorer:
    lower_is_better = binary = False
    signature = "plug-in"
    def __init__(self, setup):
        self.name = setup.name
    def statistics(self, sample):
        if self.name == "throws":
            raise RuntimeError("no luck")
        return [float("nan") if self.name == "not_a_number" else float(len(sample.answer.text))]
    def item_score(self, statistics):
        return statistics[0]
    def corpus_score(self, sums, items):
        return sums[0] / items
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with three scorers, as pip would leave it."""
    (tmp_path / "odd_scorers.py").write_text(PLUGIN)
    info = tmp_path / "odd_scorers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-scorers\nVersion: 1.0\n")
    names = ("characters", "throws", "not_a_number")
    lines = [f"{name} = odd_scorers:Scorer" for name in names]
    (info / "entry_points.txt").write_text("\n".join(["[mainspring.scorers]", *lines, "bleu = odd_scorers:Scorer"]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_scorers", raising=False)


@pytest.mark.usefixtures("plugins")
async def test_a_plug_in_is_one_class_and_one_that_throws_costs_its_own_result_only(world: World) -> None:
    assert {"characters", "throws", "not_a_number"} <= set(ThreadScoring().names)
    run = await world.run(suite=replace(SUITE, scorers=("characters", "throws", "not_a_number", "bleu")))
    assert run.state is RunState.SUCCEEDED
    assert set(results(run)) == {"characters", "bleu"}
    assert results(run)["bleu"].signature.startswith("BLEU"), "a plug-in takes no name that is taken"
    assert failures(run) == {"throws": "SCORER_FAILED", "not_a_number": "SCORE_NOT_FINITE"}
    (event,) = world.outbox.emitted
    assert {failure.scorer for failure in event.scorer_failures} == {"throws", "not_a_number"}  # type: ignore[attr-defined]


async def test_empty_answers_are_scored_by_every_scorer_that_needs_no_one_else() -> None:
    item = Item((Message("user", "q"),), ("yes",))
    alone = (
        "judge",
        "context",
        "faith",
        "embedding",
        "calibration",
        "choice",
        "perplexity",
        "attack",
        "false",
        "first_token",
        "token_lat",
        "cost",
    )
    names = tuple(name for name in ThreadScoring().names if not name.startswith(alone))
    suite = EvaluationSuite(SUITE.name, MODEL, names, json_schema='{"type": "object"}', bootstrap_resamples=100)
    samples = [Sample(replace(item, prompt=(Message("user", str(n)),)), Answer("", 0.1)) for n in range(3)]
    measured = await ThreadScoring().measure(suite, samples, samples)
    assert measured.failures == ()
    assert {result.scorer for result in measured.results} == set(names)
    empty = next(result for result in measured.results if result.scorer == "empty_answers")
    assert (empty.candidate.value, empty.lower_is_better, empty.adjusted_p_value) == (1, True, 1)


class Backwards:
    """A clock that somebody turns back an hour again and again."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 29, 3, tzinfo=UTC)

    def now(self) -> datetime:
        self.time -= timedelta(hours=1)
        return self.time


async def test_f14_a_clock_that_goes_back_costs_no_run(world: World) -> None:
    world.ports = replace(world.ports, clock=Backwards())
    world.build(tries=1)
    run = await world.run(suite=replace(SUITE, budget=Budget(max_duration_s=1)))
    assert run.state is RunState.SUCCEEDED


async def test_f8_answers_from_before_they_had_details_are_still_answers(database_for: DatabaseFor) -> None:
    database = await database_for("mainspring_evaluator")
    async with database.transaction() as connection:
        await connection.execute(
            text("INSERT INTO generated_answer (project, key, answer, latency_s) VALUES ('p', 'k', '\"old\"', 2)")
        )
        assert await PostgresAnswers(database).known("p", ["k"]) == {"k": Answer("old", 2.0)}
