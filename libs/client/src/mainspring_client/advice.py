"""Advice before spending: the rungs from an untouched model to a tuned one, measured, and the cheapest that passes.

The rungs are the base model, the base with an instruction, the base with examples in the prompt, and a small LoRA, in
the order of what they cost. All answer the same questions of a frozen test split through the plane that serves, and the
evaluator scores them. A rung passes as the gate lets a version pass: its gain over the base, with its interval, lies
above the policy's least gain.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mainspring.data.v1 import dataset_pb2
from mainspring.evaluation.v1 import run_pb2 as evaluation_pb2
from mainspring.training.v1 import run_pb2
from mainspring_client.client import Mainspring
from mainspring_client.configuration import Configuration
from mainspring_svckit.errors import NotFound, PreconditionFailed

BASE, INSTRUCTION, EXAMPLES, PROBE = "base", "instruction", "examples", "lora probe"
PLAIN_INSTRUCTION = "Answer with the result alone, in the words and the form that the task wants. Add nothing to it."
_RESAMPLES, _LEVEL = 2000, 0.95
_PATIENCE_S, _POLL_S = 120.0, 0.5
# Examples leave room for the question and its answer, and for what the contract allows of an instruction.
_EXAMPLES_SHARE, _CHARACTERS_PER_TOKEN, _INSTRUCTION_CHARACTERS = 0.5, 2.5, 9000
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """What advice is asked for.

    Attributes:
        project: Project id.
        model: Id of the model that would be tuned; its policy and suite say what is good enough.
        base: Foundation model's version.
        dataset_version: Data that would be learned; its test split is what is measured on, unless the suite names one.
        instruction: What the second rung tells the model.
        examples: How many examples the third rung gives it.
        probe_steps: Optimiser steps of the fourth.
        epochs: Passes of the tuning whose time is predicted.
        max_items: Most questions.
        scorer: What decides where no policy does.
        min_gain: Least gain where no policy says it.
    """

    project: str
    model: str
    base: str
    dataset_version: str
    instruction: str = PLAIN_INSTRUCTION
    examples: int = 4
    probe_steps: int = 16
    epochs: float = 1.0
    max_items: int = 40
    scorer: str = "rouge_l"
    min_gain: float = 0.0


@dataclass(frozen=True)
class Gain:
    """A mean difference to the base over the same questions, with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rung:
    """One rung, measured.

    Attributes:
        name: Which.
        evaluation_run: Where the figures come from.
        score: Mean score of its answers.
        gain: Over the base; None for the base itself.
        passes: Whether the gate's rule of the primary scorer would be kept.
        prompt_characters: What it adds to every prompt.
        answer_p50_s: Median time of an answer, here.
        setup_s: Time until it can serve: 0 for prompts; for the probe that of the whole tuning, predicted.
        cost: Of the setup, in `currency`; 0 where no rates are set.
        error: Why it could not be measured, or empty; a prompt that is too long for the base, for example.
    """

    name: str
    evaluation_run: str
    score: float
    gain: Gain | None
    passes: bool
    prompt_characters: int
    answer_p50_s: float
    setup_s: float = 0.0
    cost: float = 0.0
    error: str = ""


@dataclass
class Advice:
    """What was found.

    Attributes:
        scorer: What decides.
        min_gain: Least gain.
        policy: Policy that says so, or empty.
        items: Questions that every rung answered.
        rungs: In the order of their cost.
        recommended: Name of the cheapest rung that passes; empty when none does.
        text: The advice in words.
        tuning: Prediction of the whole tuning: rows, tokens, tokens per second, seconds, cost, currency.
    """

    scorer: str
    min_gain: float
    policy: str
    items: int = 0
    rungs: list[Rung] = field(default_factory=list[Rung])
    recommended: str = ""
    text: str = ""
    tuning: dict[str, Any] = field(default_factory=dict[str, Any])


async def advise(mainspring: Mainspring, question: Question, tell: Tell) -> Advice:
    """Measures every rung and says which is the cheapest that is good enough.

    The probe is a version of a model of its own (`MODEL-probe`), which no suite and no policy knows, so it is never
    released.

    Raises:
        PreconditionFailed: A run failed; the message says why.
        NotFound: The base or the data is not there.
    """
    return await _Adviser(mainspring, question, tell).run()


class _Adviser:
    def __init__(self, mainspring: Mainspring, question: Question, tell: Tell) -> None:
        self._mainspring, self._question, self._tell = mainspring, question, tell
        self._suite: dict[str, Any] = {}
        self._scores: dict[str, Mapping[str, float]] = {}

    async def run(self) -> Advice:
        question = self._question
        advice = await self._bar()
        examples = await self._examples()
        for name, instruction in ((BASE, ""), (INSTRUCTION, question.instruction), (EXAMPLES, examples)):
            if name == EXAMPLES and not examples:
                continue
            advice.rungs.append(await self._measure(advice, name, question.base, instruction))
        run, version = await self._probe()
        advice.tuning = await self._predicted(run)
        measured = await self._measure(advice, PROBE, version, "")
        setup = {"setup_s": advice.tuning["seconds"], "cost": advice.tuning["cost"]}
        advice.rungs.append(Rung(**{**measured.__dict__, **setup}))
        advice.items = len(self._scores[BASE])
        conclude(advice)
        return advice

    async def _bar(self) -> Advice:
        """What is good enough: the model's policy and suite, or what the question says."""
        question, mainspring = self._question, self._mainspring
        model = f"projects/{question.project}/models/{question.model}"
        policy = next(
            (p for p in [p async for p in mainspring.registry.policies(question.project)] if p.model == model), None
        )
        scorer = policy.primary_scorer if policy is not None else question.scorer
        suite: dict[str, Any] = {"scorers": [scorer], "max_items": question.max_items}
        frozen = question.dataset_version
        if policy is not None:
            known = await mainspring.evaluation.suite(policy.evaluation_suite)
            frozen = known.dataset_version or frozen
            suite["sampling"] = {"max_output_tokens": known.sampling.max_output_tokens}
        self._suite = {**suite, "frozen": frozen}
        least = policy.min_gain if policy is not None else question.min_gain
        return Advice(scorer, least, policy.name if policy is not None else "")

    async def _measure(self, advice: Advice, name: str, version: str, instruction: str) -> Rung:
        """One rung through the evaluator, with a suite of its own."""
        question, mainspring = self._question, self._mainspring
        task = name.replace(" ", "_")
        source = {"task": task, "instruction": instruction, "dataset": {"dataset_version": self._suite["frozen"]}}
        wanted = {key: value for key, value in self._suite.items() if key != "frozen"}
        suite = {**wanted, "id": f"{question.model}-advice-{task.replace('_', '-')}", "sources": [source]}
        # No version of that model is ever registered, so the suite runs only when it is asked to.
        suite["model"] = f"{question.model}-advice"
        configuration = Configuration.parse({"project": question.project, "evaluation_suite": suite})
        await mainspring.apply(configuration)
        section: Any = configuration.sections["evaluation_suite"]
        # Compared with the base, so that the probe's run does not look for what is released.
        asked = await mainspring.evaluation.start(
            section.name, version, "" if version == question.base else question.base
        )
        run = asked
        async for update in mainspring.evaluation.watch(asked.name):
            run = update
            self._tell(f"{name}: {run.progress.done}/{run.progress.total} answers")
        if run.state != evaluation_pb2.EvaluationRun.STATE_SUCCEEDED:
            if name in (INSTRUCTION, EXAMPLES):
                return Rung(name, run.name, 0.0, None, False, len(instruction), 0.0, error=run.error.message)
            raise PreconditionFailed("ADVICE_FAILED", f"the rung {name} was not measured: {run.error.message}")
        items = [item async for item in mainspring.evaluation.items(run.name)]
        if not items or advice.scorer not in items[0].candidate_scores:
            message = f"{advice.scorer} gives no score of single answers; choose another scorer"
            raise PreconditionFailed("ADVICE_FAILED", message)
        # A score of which less is better counts downwards, so that a gain is always upwards.
        sign = -1.0 if any(r.lower_is_better for r in run.results if r.scorer == advice.scorer) else 1.0
        self._scores[name] = scores = {_asked(item): sign * item.candidate_scores[advice.scorer] for item in items}
        gain = gain_over(self._scores[BASE], scores) if name != BASE else None
        latency = run.candidate_latency.p50
        rung = Rung(
            name=name,
            evaluation_run=run.name,
            score=sum(scores.values()) / len(scores),
            gain=gain,
            passes=gain is not None and gain.low > advice.min_gain,
            prompt_characters=len(instruction),
            answer_p50_s=latency.seconds + latency.nanos / 1e9,
        )
        self._tell(f"{name}: {advice.scorer} {rung.score:.4f}")
        return rung

    async def _examples(self) -> str:
        """The first short rows of the train split, as text for the system message."""
        shown: list[str] = []
        split = dataset_pb2.SPLIT_TRAIN
        context_tokens = (await self._mainspring.registry.version(self._question.base)).serving.context_tokens
        left = min(_INSTRUCTION_CHARACTERS, round(context_tokens * _EXAMPLES_SHARE * _CHARACTERS_PER_TOKEN))
        async for row in self._mainspring.dataset_versions.rows(self._question.dataset_version, split, page_size=100):
            if len(shown) >= self._question.examples:
                break
            *before, answer = row.messages
            told = next((message.content for message in reversed(before)), "")
            bad = row.HasField("desirable") and not row.desirable
            example = f"Question:\n{told}\n\nAnswer:\n{answer.content}"
            if told and not bad and len(example) <= left:
                shown.append(example)
                left -= len(example)
        if not shown:
            return ""
        return "\n\n".join([self._question.instruction, "Here is how it is done.", *shown])

    async def _probe(self) -> tuple[run_pb2.TrainingRun, str]:
        """A small LoRA: the run that made it, and the version."""
        question, mainspring = self._question, self._mainspring
        line, dataset = f"{question.model}-probe", question.dataset_version.split("/")[3]
        recipe = {
            "id": line,
            "dataset": dataset,
            "model": line,
            "base_model_version": question.base,
            "method": "METHOD_SUPERVISED",
            "start_from": "START_FROM_BASE",
            "optimization": {"max_steps": question.probe_steps},
        }
        configuration = Configuration.parse({"project": question.project, "tuning_recipe": recipe})
        await mainspring.apply(configuration)
        section: Any = configuration.sections["tuning_recipe"]
        run = await mainspring.training.start(section.name, question.dataset_version)
        async for update in mainspring.training.watch(run.name):
            run = update.run
            self._tell(f"{PROBE}: {run.progress.done}/{run.progress.total} steps")
        if run.state != run_pb2.TrainingRun.STATE_SUCCEEDED:
            raise PreconditionFailed("ADVICE_FAILED", f"the probe was not tuned: {run.error.message}")
        # Later versions of the dataset must not start probes; the recipe waits at a dataset that nobody makes.
        parked = Configuration.parse({"project": question.project, "tuning_recipe": {**recipe, "dataset": line}})
        await mainspring.apply(parked)
        return run, await self._registered(run)

    async def _registered(self, run: run_pb2.TrainingRun) -> str:
        ends = asyncio.get_running_loop().time() + _PATIENCE_S
        while asyncio.get_running_loop().time() < ends:
            try:
                async for version in self._mainspring.registry.versions(run.model):
                    if version.lineage.training_run == run.name:
                        return version.name
                    break
            except NotFound:
                pass  # The registry has not heard of the run yet.
            await asyncio.sleep(_POLL_S)
        raise PreconditionFailed("ADVICE_FAILED", f"{run.name} did not become a version; see 'mainspring status'")

    async def _predicted(self, run: run_pb2.TrainingRun) -> dict[str, Any]:
        """What the whole tuning would take, by the speed that the probe had."""
        question = self._question
        version = await self._mainspring.data.version(question.dataset_version)
        rows = sum(count.rows for count in version.splits if count.split == dataset_pb2.SPLIT_TRAIN)
        speeds = [m.tokens_per_second async for m in self._mainspring.training.metrics(run.name) if m.tokens_per_second]
        page = await self._mainspring.training.page(run.name, max_points=1)
        learned = run.result.steps * page.tuning_recipe.optimization.batch_rows
        tokens = round(run.result.tokens / max(1, learned) * rows * question.epochs)
        speed = sorted(speeds)[len(speeds) // 2] if speeds else 0.0
        seconds = tokens / speed if speed else 0.0
        rate = run.usage.cost / run.usage.wall_s if run.usage.wall_s else 0.0
        return {
            "rows": rows,
            "tokens": tokens,
            "tokens_per_second": speed,
            "seconds": seconds,
            "cost": rate * seconds,
            "currency": run.usage.currency,
        }


def gain_over(base: Mapping[str, float], other: Mapping[str, float]) -> Gain:
    """The mean difference over the questions that both answered, with a percentile bootstrap interval (seed 0)."""
    differences = [other[question] - base[question] for question in sorted(base.keys() & other.keys())]
    if not differences:
        raise PreconditionFailed("ADVICE_FAILED", "the rungs answered no question in common; ask for more items")
    draw, count = random.Random(0), len(differences)  # noqa: S311 - statistics.
    means = sorted(sum(draw.choices(differences, k=count)) / count for _ in range(_RESAMPLES))
    tail = round((1 - _LEVEL) / 2 * _RESAMPLES)
    return Gain(sum(differences) / count, means[tail], means[-tail - 1])


def conclude(advice: Advice) -> None:
    """Chooses the cheapest rung that passes and says it in words."""
    passing = [rung for rung in advice.rungs if rung.passes]
    least = f"{advice.scorer} by more than {advice.min_gain:g} over the base"
    if passing:
        advice.recommended = passing[0].name
    if not passing:
        best = max((rung for rung in advice.rungs if not rung.error), key=lambda rung: rung.score)
        advice.text = (
            f"no rung lifts {least} with certainty; the best was {best.name}. Measure on more items, or tune for"
            f" longer than the probe: one tuning takes about {_duration(advice.tuning.get('seconds', 0.0))} here"
        )
    elif advice.recommended == PROBE:
        advice.text = (
            f"tune: prompts alone do not lift {least}, and a probe of a few steps does. The whole tuning takes about"
            f" {_duration(advice.tuning['seconds'])} here; 'mainspring train' does it"
        )
    else:
        advice.text = f"do not tune yet: the rung {advice.recommended} lifts {least}, and needs no training"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _asked(item: evaluation_pb2.EvaluationItem) -> str:
    messages: Sequence[Any] = item.messages
    return str(messages[-1].content)
