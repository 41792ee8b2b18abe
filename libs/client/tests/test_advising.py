"""Advice from end to end over a plane of this test's own: what rungs are measured by, and what is made of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mainspring.data.v1 import comparison_pb2, dataset_pb2
from mainspring.evaluation.v1 import run_pb2 as evaluation_pb2
from mainspring.evaluation.v1 import suite_pb2
from mainspring.registry.v1 import model_pb2, release_pb2
from mainspring.training.v1 import recipe_pb2, run_pb2
from mainspring.training.v1 import training_service_pb2 as training_pb
from mainspring_client.advice import BASE, EXAMPLES, INSTRUCTION, PROBE, Advice, Question, advise
from mainspring_client.training import RunUpdate

BASE_VERSION = "projects/p/models/base/versions/1"
PROBE_VERSION = "projects/p/models/sums-probe/versions/1"
DATA = "projects/p/datasets/sums/versions/2"
TRAINED = "projects/p/trainingRuns/r"
QUESTIONS = 24


class Plane:
    """Every area of the client at once. A rung's scores are the same for all questions but for a wave in it."""

    def __init__(self, policy: release_pb2.ReleasePolicy | None, scores: dict[str, dict[str, float]]) -> None:
        self.policy, self.scores = policy, scores
        self.suites: list[suite_pb2.EvaluationSuite] = []
        self.registry = self.evaluation = self.training = self.data = self.dataset_versions = self

    async def apply(self, configuration: Any) -> None:
        if "evaluation_suite" in configuration.sections:
            self.suites.append(configuration.sections["evaluation_suite"])

    async def policies(self, project: str) -> AsyncIterator[release_pb2.ReleasePolicy]:
        if self.policy is not None:
            yield self.policy

    async def suite(self, name: str) -> suite_pb2.EvaluationSuite:
        sampling = suite_pb2.Sampling(max_output_tokens=64)
        return suite_pb2.EvaluationSuite(name=name, dataset_version=DATA.replace("/2", "/1"), sampling=sampling)

    async def version(self, name: str) -> Any:
        if name == DATA:
            rows = dataset_pb2.SplitCount(split=dataset_pb2.SPLIT_TRAIN, rows=100)
            return dataset_pb2.DatasetVersion(name=name, splits=[rows])
        return model_pb2.ModelVersion(name=name, serving=model_pb2.ServingSpec(context_tokens=2048))

    async def versions(self, model: str) -> AsyncIterator[model_pb2.ModelVersion]:
        yield model_pb2.ModelVersion(name=PROBE_VERSION, lineage=model_pb2.Lineage(training_run=TRAINED))

    async def rows(self, version: str, split: int, page_size: int) -> AsyncIterator[Any]:
        row = comparison_pb2.DatasetRow()
        row.messages.add(content="one and one?")
        row.messages.add(content="two")
        yield row

    async def start(self, what: str, version: str, baseline: str = "") -> Any:
        if "/tuningRecipes/" in what:
            return run_pb2.TrainingRun(name=TRAINED, model="projects/p/models/sums-probe")
        return evaluation_pb2.EvaluationRun(name=what)

    async def watch(self, name: str) -> AsyncIterator[Any]:
        if name == TRAINED:
            yield RunUpdate(
                run_pb2.TrainingRun(
                    name=name,
                    model="projects/p/models/sums-probe",
                    state=run_pb2.TrainingRun.STATE_SUCCEEDED,
                    result=run_pb2.TrainingResult(steps=4, tokens=640),
                ),
                [],
            )
        else:
            run = evaluation_pb2.EvaluationRun(name=name, state=evaluation_pb2.EvaluationRun.STATE_SUCCEEDED)
            if name.endswith("lora-probe"):
                run.fidelity.mean_kl_nats = 0.01
            yield run

    async def items(self, run: str) -> AsyncIterator[evaluation_pb2.EvaluationItem]:
        rung = run.rpartition("-advice-")[2].replace("-", " ")
        for number in range(QUESTIONS):
            scores = {scorer: by_rung[rung] + number % 2 / 100 for scorer, by_rung in self.scores.items()}
            item = evaluation_pb2.EvaluationItem(candidate_scores=scores)
            item.messages.add(content=f"question {number}")
            yield item

    async def metrics(self, run: str) -> AsyncIterator[run_pb2.TrainingMetric]:
        yield run_pb2.TrainingMetric(step=4, tokens_per_second=50)

    async def page(self, name: str, max_points: int) -> training_pb.GetTrainingRunPageResponse:
        recipe = recipe_pb2.TuningRecipe(optimization=recipe_pb2.Optimization(batch_rows=16))
        return training_pb.GetTrainingRunPageResponse(tuning_recipe=recipe)


def policy(min_gain: float, **rules: Any) -> release_pb2.ReleasePolicy:
    return release_pb2.ReleasePolicy(
        name="projects/p/releasePolicies/sums",
        model="projects/p/models/sums",
        evaluation_suite="projects/p/evaluationSuites/sums",
        primary_scorer="rouge_l",
        min_gain=min_gain,
        min_items=20,
        max_mean_kl_nats=0.1,
        **rules,
    )


async def advised(plane: Plane) -> Advice:
    client: Any = plane
    return await advise(client, Question("p", "sums", BASE_VERSION, DATA), lambda text: None)


GAINS = {BASE: 0.3, INSTRUCTION: 0.4, EXAMPLES: 0.5, PROBE: 0.6}
LENGTHS = {BASE: 0.9, INSTRUCTION: 0.5, EXAMPLES: 0.9, PROBE: 0.9}


async def test_where_no_gain_is_asked_for_the_base_is_advised() -> None:
    found = await advised(Plane(policy(-0.02), {"rouge_l": GAINS}))
    assert (found.recommended, found.items, found.unmeasured) == (BASE, QUESTIONS, [])
    assert found.tuning["seconds"] == 100 * 640 / 64 / 50


async def test_a_rung_that_lifts_one_score_and_drops_another_is_passed_over() -> None:
    guard = release_pb2.GuardRule(scorer="exact_match", margin=0.1)
    plane = Plane(policy(0.05, guards=[guard]), {"rouge_l": GAINS, "exact_match": LENGTHS})
    found = await advised(plane)
    assert {rung.name: rung.broken for rung in found.rungs} == {
        BASE: ["primary:rouge_l"],
        INSTRUCTION: ["guard:exact_match"],
        EXAMPLES: [],
        PROBE: [],
    }
    assert found.recommended == EXAMPLES
    assert [list(suite.scorers) for suite in plane.suites] == [["rouge_l", "exact_match"]] * 4
    frozen = {suite.sources[0].dataset.dataset_version for suite in plane.suites}
    assert frozen == {DATA.replace("/2", "/1")}
    assert {suite.sampling.max_output_tokens for suite in plane.suites} == {64}


@pytest.mark.parametrize(("min_gain", "wanted"), [(-0.01, BASE), (0.05, INSTRUCTION), (0.25, PROBE), (0.5, "")])
async def test_without_a_policy_the_gain_that_is_asked_for_decides(min_gain: float, wanted: str) -> None:
    client: Any = Plane(None, {"rouge_l": GAINS})
    question = Question("p", "sums", BASE_VERSION, DATA, min_gain=min_gain)
    found = await advise(client, question, lambda text: None)
    assert (found.recommended, found.policy, found.unmeasured) == (wanted, "", [])


async def test_rules_that_no_answer_can_tell_are_named() -> None:
    rules = {
        "guards": [release_pb2.GuardRule(scorer="chrf")],
        "further_suites": [release_pb2.SuiteRule(evaluation_suite="projects/p/evaluationSuites/safety")],
    }
    found = await advised(Plane(policy(0.05, **rules), {"rouge_l": GAINS}))
    assert found.recommended == INSTRUCTION
    assert [text.partition(": ")[0] for text in found.unmeasured] == ["suite safety", "guard:chrf"]
