"""Advice before spending: the rungs from an untouched model to a tuned one, measured, and the cheapest that passes.

The rungs are the base model, the base with an instruction, the base with examples in the prompt, and a small LoRA, in
the order of what they cost. All answer the same questions of a frozen test split through the plane that serves, and the
evaluator scores them. A rung passes when it breaks no rule of the model's release policy that its answers can tell
(`advice_gate.py`), compared with the base; the base itself passes where a policy asks for no gain.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.json_format import MessageToDict

from mainspring.data.v1 import dataset_pb2
from mainspring.evaluation.v1 import run_pb2 as evaluation_pb2
from mainspring.evaluation.v1 import suite_pb2
from mainspring.training.v1 import run_pb2
from mainspring_client.advice_gate import Answers, Check, Gain, Gate, checked, gain_over, gate_of, unmeasured
from mainspring_client.client import Mainspring
from mainspring_client.configuration import Configuration
from mainspring_svckit.errors import NotFound, PreconditionFailed

BASE, INSTRUCTION, EXAMPLES, PROBE = "base", "instruction", "examples", "lora probe"
PLAIN_INSTRUCTION = "Answer with the result alone, in the words and the form that the task wants. Add nothing to it."
_PATIENCE_S, _POLL_S = 120.0, 0.5
# Examples leave room for the question and its answer, and for what the contract allows of an instruction.
_EXAMPLES_SHARE, _CHARACTERS_PER_TOKEN, _INSTRUCTION_CHARACTERS = 0.5, 2.5, 9000
_OF_SUITE = (
    "sampling",
    "slices",
    "min_slice_items",
    "json_schema",
    "embedding_model_version",
    "judges",
    "price",
)
"""What decides how the policy's own suite asks and scores, beside its items."""
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
class Rung:
    """One rung, measured.

    Attributes:
        name: Which.
        evaluation_run: Where the figures come from.
        score: Mean score of its answers.
        gain: Over the base; None for the base itself.
        passes: Whether it breaks no rule that could be measured.
        prompt_characters: What it adds to every prompt.
        answer_p50_s: Median time of an answer, here.
        setup_s: Time until it can serve: 0 for prompts; for the probe that of the whole tuning, predicted.
        cost: Of the setup, in `currency`; 0 where no rates are set.
        error: Why it could not be measured, or empty; a prompt that is too long for the base, for example.
        checks: The gate's rules, one by one.
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
    checks: Sequence[Check] = ()

    @property
    def broken(self) -> list[str]:
        """Rules that it breaks."""
        return [check.rule for check in self.checks if check.kept is False]


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
        unmeasured: Rules of the policy that were not measured, and why.
        tuning: Prediction of the whole tuning: rows, tokens, tokens per second, seconds, cost, currency.
    """

    scorer: str
    min_gain: float
    policy: str
    items: int = 0
    rungs: list[Rung] = field(default_factory=list[Rung])
    recommended: str = ""
    text: str = ""
    unmeasured: list[str] = field(default_factory=list[str])
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
        self._gate, self._frozen = Gate(question.scorer, question.min_gain), question.dataset_version
        self._suite: dict[str, Any] = {}
        self._answers: dict[str, Answers] = {}

    async def run(self) -> Advice:
        question = self._question
        await self._look_up_gate()
        gate = self._gate
        advice = Advice(gate.scorer, gate.min_gain, gate.policy)
        examples = await self._examples()
        for name, instruction in ((BASE, ""), (INSTRUCTION, question.instruction), (EXAMPLES, examples)):
            if name == EXAMPLES and not examples:
                continue
            advice.rungs.append(await self._measure(name, question.base, instruction))
        run, version = await self._probe()
        advice.tuning = await self._predicted(run)
        measured = await self._measure(PROBE, version, "")
        advice.rungs.append(replace(measured, setup_s=advice.tuning["seconds"], cost=advice.tuning["cost"]))
        advice.items = len(self._answers[BASE].scores[gate.scorer])
        told = [check for rung in advice.rungs for check in rung.checks]
        # What one rung could tell is measured; that prompts have no tuned version's figures is no news then.
        known = {check.rule for check in told if check.kept is not None}
        advice.unmeasured = unmeasured(gate, [check for check in told if check.rule not in known])
        conclude(advice)
        return advice

    async def _look_up_gate(self) -> None:
        """What is good enough: the model's policy and suite, or what the question says."""
        question, mainspring = self._question, self._mainspring
        model = f"projects/{question.project}/models/{question.model}"
        policy = next(
            (p for p in [p async for p in mainspring.registry.policies(question.project)] if p.model == model), None
        )
        if policy is not None:
            known = await mainspring.evaluation.suite(policy.evaluation_suite)
            self._gate, self._frozen = gate_of(policy, known), known.dataset_version or self._frozen
            self._suite = scoring_of(known)
        self._suite |= {"scorers": self._gate.scorers, "max_items": question.max_items}

    async def _measure(self, name: str, version: str, instruction: str) -> Rung:
        """One rung through the evaluator, with a suite of its own."""
        question, mainspring = self._question, self._mainspring
        task = name.replace(" ", "_")
        source = {"task": task, "instruction": instruction, "dataset": {"dataset_version": self._frozen}}
        suite = {**self._suite, "id": f"{question.model}-advice-{task.replace('_', '-')}", "sources": [source]}
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
        return self._rung(name, run, answers_of(run, items), prompt_characters=len(instruction))

    def _rung(self, name: str, run: evaluation_pb2.EvaluationRun, answers: Answers, *, prompt_characters: int) -> Rung:
        gate = self._gate
        scores = answers.scores.get(gate.scorer)
        if not scores:
            message = f"{gate.scorer} gives no score of single answers; choose another scorer"
            raise PreconditionFailed("ADVICE_FAILED", message)
        self._answers[name] = answers
        base = self._answers[BASE]
        checks = checked(gate, base, answers)
        latency = run.candidate_latency.p50
        rung = Rung(
            name=name,
            evaluation_run=run.name,
            score=sum(scores.values()) / len(scores),
            gain=gain_over(base.scores[gate.scorer], scores, gate.level) if name != BASE else None,
            passes=all(check.kept is not False for check in checks),
            prompt_characters=prompt_characters,
            answer_p50_s=latency.seconds + latency.nanos / 1e9,
            checks=checks,
        )
        self._tell(f"{name}: {gate.scorer} {rung.score:.4f}")
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


def scoring_of(suite: suite_pb2.EvaluationSuite) -> dict[str, Any]:
    """How a suite asks and scores, without its items, as a section of `flywheel.yaml`."""
    told = MessageToDict(suite, preserving_proto_field_name=True)
    return {key: value for key, value in told.items() if key in _OF_SUITE}


def answers_of(run: evaluation_pb2.EvaluationRun, items: Sequence[evaluation_pb2.EvaluationItem]) -> Answers:
    """The candidate's scores of single answers. Those of which less is better count downwards, so that a gain is always
    upwards.
    """
    downwards = {result.scorer for result in run.results if result.lower_is_better}
    scores, parts = defaultdict[str, dict[str, float]](dict), defaultdict[str, set[str]](set)
    for item in items:
        question = _asked(item)
        for scorer, score in item.candidate_scores.items():
            scores[scorer][question] = -score if scorer in downwards else score
        for part in item.slices:
            parts[part].add(question)
    close = run.fidelity.mean_kl_nats if run.HasField("fidelity") else None
    return Answers(dict(scores), {part: frozenset(questions) for part, questions in parts.items()}, close)


def conclude(advice: Advice) -> None:
    """Chooses the cheapest rung that passes and says it in words."""
    passing = [rung for rung in advice.rungs if rung.passes]
    least = f"{advice.scorer} by more than {advice.min_gain:g} over the base"
    if passing:
        advice.recommended = passing[0].name
    if not passing:
        advice.text = _none_passes(advice, least)
    elif advice.recommended == BASE:
        advice.text = (
            "use the base as it is: it breaks no rule that was measured, and none asks for more than it does; neither a"
            " prompt nor a tuning is needed"
        )
    elif advice.recommended == PROBE:
        advice.text = (
            f"tune: prompts alone do not lift {least} and keep every other rule, and a probe of a few steps does. The"
            f" whole tuning takes about {_duration(advice.tuning['seconds'])} here; 'mainspring train' does it"
        )
    else:
        advice.text = (
            f"do not tune yet: the rung {advice.recommended} lifts {least}, breaks no other rule that was measured, and"
            " needs no training"
        )


def _none_passes(advice: Advice, least: str) -> str:
    best = max((rung for rung in advice.rungs if not rung.error), key=lambda rung: rung.score)
    primary = f"primary:{advice.scorer}"
    others = [rule for rule in best.broken if rule != primary]
    what = f"no rung lifts {least} with certainty"
    if others and any(rung.gain and primary not in rung.broken for rung in advice.rungs):
        what = "no rung keeps all rules"
    broken = f", which breaks {', '.join(others)}" if others else ""
    return (
        f"{what}; the best was {best.name}{broken}. Measure on more items, or tune for longer than the probe: one"
        f" tuning takes about {_duration(advice.tuning.get('seconds', 0.0))} here"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _asked(item: evaluation_pb2.EvaluationItem) -> str:
    messages: Sequence[Any] = item.messages
    return str(messages[-1].content)
