"""Figures about answers that others must be asked for: embedding similarity, first-token confidence, judges' verdicts.

What comes out is, for each item, figures by scorer's name; scorers only count them. A scorer whose figures cannot be
had is a failure of that scorer and of no other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.judging import (
    Ask,
    Check,
    Judging,
    Question,
    Verdicts,
    mean_of,
    preference,
    preference_question,
    report,
    rubric_question,
    support_question,
    use_question,
)
from mainspring_evaluator.application.ports import Ports
from mainspring_evaluator.application.surprise import PARTS, Surprise, finite, most_probable, passages_key
from mainspring_evaluator.domain.agreement import sentences
from mainspring_evaluator.domain.inquiries import Version
from mainspring_evaluator.domain.items import Answer, Item, observation_key, prompt_digest
from mainspring_evaluator.domain.runs import JudgeReport
from mainspring_evaluator.domain.suites import EvaluationSuite, JudgePanel
from mainspring_svckit.errors import ConcurrentChange, MainspringError, Unavailable
from mainspring_svckit.values import ScorerFailure

SIMILARITY, CALIBRATION = "embedding_similarity", "calibration_error"
PERPLEXITY = "perplexity"
CHOICES = ("choice_accuracy", "choice_accuracy_norm")
RUBRIC, PREFERENCE = "judge_rubric", "judge_preference"
FAITHFULNESS, PRECISION, RECALL = "faithfulness", "context_precision", "context_recall"
JUDGED = (RUBRIC, PREFERENCE, FAITHFULNESS, PRECISION, RECALL)
_TEXTS_AT_A_TIME = 64
_SCORED_REFERENCES = 4


@dataclass
class Observed:
    """Figures of one system's answers."""

    version: Version
    answers: Sequence[Answer]
    figures: list[dict[str, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.figures = [{} for _ in self.answers]


@dataclass
class Told:
    """What asking others brought beside the figures."""

    failures: list[ScorerFailure] = field(default_factory=list[ScorerFailure])
    judges: tuple[JudgeReport, ...] = ()


class Observing:
    """Asks others about answers."""

    def __init__(self, ports: Ports, generation: Generation) -> None:
        self._ports, self._generation = ports, generation
        self._judging, self._surprise = Judging(ports), Surprise(ports, generation)

    async def observe(
        self,
        project: str,
        holder: str,
        suite: EvaluationSuite,
        items: Sequence[Item],
        systems: Sequence[Observed],
        ask: Ask,
        check: Check,
    ) -> Told:
        """Fills the systems' figures for the suite's scorers; the candidate is the first. Judges are asked by `ask`,
        and before others are asked, `check` may end it.

        Raises:
            PreconditionFailed: BUDGET_EXCEEDED; what others said until then is kept.
            Unavailable: Somebody cannot be asked now.
            ConcurrentChange: Somebody else was at the same; LeaseLost as `ask` raises it.
        """
        told = Told()
        fills = (
            ((SIMILARITY,), self._similarity),
            ((CALIBRATION,), self._confidence),
            ((PERPLEXITY,), self._perplexity),
            (CHOICES, self._choices),
        )
        for names, fill in fills:
            if filled := [name for name in names if name in suite.scorers]:
                try:
                    for system in systems:
                        await fill(project, holder, suite, items, system, check)
                except MainspringError as err:
                    if _ends_the_run(err):
                        raise
                    reason = err.metadata.get("cause", err.reason)
                    told.failures += [ScorerFailure(name, reason, err.message) for name in filled]
        wanted = [name for name in suite.scorers if name in JUDGED]
        if wanted:
            await self._judges(suite, items, systems, wanted, told, ask)
        return told

    async def _similarity(
        self, project: str, holder: str, suite: EvaluationSuite, items: Sequence[Item], system: Observed, check: Check
    ) -> None:
        """Cosine of the angle between an answer and the nearest reference."""
        del holder
        ports, model = self._ports, suite.embedding_model_version
        identity = (await ports.catalogue.version(model)).manifest_sha256 if model else ""
        pending: list[tuple[int, str]] = []
        keys = [
            observation_key(SIMILARITY, identity, answer.text, *item.references)
            for item, answer in zip(items, system.answers, strict=True)
        ]
        async with ports.transactions.transaction():
            known = await ports.observations.known(project, keys)
        for index, (item, answer) in enumerate(zip(items, system.answers, strict=True)):
            if not item.references:
                continue
            if not answer.text.strip():
                system.figures[index][SIMILARITY] = 0.0  # Nothing was said, and nothing has no direction.
            elif keys[index] in known:
                system.figures[index][SIMILARITY] = known[keys[index]]
            else:
                pending.append((index, answer.text))
        texts = list(
            dict.fromkeys(text for index, answer in pending for text in (answer, *items[index].references) if text)
        )
        vectors: dict[str, Sequence[float]] = {}
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            await check()
            chunk = texts[start : start + _TEXTS_AT_A_TIME]
            found = await self._generation.patiently("texts to embed", partial(ports.embeddings.embed, model, chunk))
            vectors.update(zip(chunk, (finite(vector, SIMILARITY) for vector in found), strict=True))
        fresh: dict[str, float] = {}
        for index, answer in pending:
            references = [vectors[text] for text in items[index].references if text]
            value = max((_cosine(vectors[answer], reference) for reference in references), default=0.0)
            system.figures[index][SIMILARITY] = fresh[keys[index]] = value
        if fresh:
            async with ports.transactions.transaction():
                await ports.observations.put(project, fresh)

    async def _confidence(
        self, project: str, holder: str, suite: EvaluationSuite, items: Sequence[Item], system: Observed, check: Check
    ) -> None:
        """Probability of the most probable first token."""
        ports, version, context = self._ports, system.version, suite.context
        keys = [
            observation_key("confidence", version.identity, prompt_digest(item.prompt), *passages_key(context))
            for item in items
        ]
        async with ports.transactions.transaction():
            known = await ports.observations.known(project, keys)
        missing = [index for index, key in enumerate(keys) if key not in known]
        for index, key in enumerate(keys):
            if key in known:
                system.figures[index][CALIBRATION] = known[key]
        if not missing:
            return
        await ports.inference.hold(version.name, holder)

        async def one(index: int) -> None:
            await check()
            tokens = await self._generation.patiently(
                f"first tokens of item {index}",
                lambda: ports.inference.first_tokens(
                    version.name, items[index].prompt, 1, context=context, unit=version.unit
                ),
            )
            value = min(1.0, math.exp(max(finite(list(tokens.values()), CALIBRATION)))) if tokens else 0.0
            async with ports.transactions.transaction():
                await ports.observations.put(project, {keys[index]: value})
            system.figures[index][CALIBRATION] = value

        await self._generation.each(missing, one)

    async def _perplexity(
        self, project: str, holder: str, suite: EvaluationSuite, items: Sequence[Item], system: Observed, check: Check
    ) -> None:
        """Surprise at the references, in nats, and their tokens."""
        wanted = [
            (index, reference)
            for index, item in enumerate(items)
            for reference in item.references[:_SCORED_REFERENCES]
            if reference
        ]
        found = await self._surprise.of(
            project, holder, system.version, items, wanted, context=suite.context, check=check
        )
        for text in wanted:
            figures = system.figures[text[0]]
            for part, value in zip(PARTS, found[text], strict=True):
                figures[part] = figures.get(part, 0.0) + value

    async def _choices(
        self, project: str, holder: str, suite: EvaluationSuite, items: Sequence[Item], system: Observed, check: Check
    ) -> None:
        """Whether the most probable choice is right; where a guard refuses the question none is."""
        wanted = [(index, choice) for index, item in enumerate(items) for choice in item.choices]
        found = await self._surprise.of(
            project, holder, system.version, items, wanted, context=suite.context, check=check
        )
        for index, item in enumerate(items):
            if item.choices:
                nats, tokens = zip(*(found[index, choice] for choice in item.choices), strict=True)
                right = most_probable(item, nats) if all(tokens) else (False, False)
                system.figures[index].update(zip(CHOICES, map(float, right), strict=True))

    async def _judges(
        self,
        suite: EvaluationSuite,
        items: Sequence[Item],
        systems: Sequence[Observed],
        wanted: Sequence[str],
        told: Told,
        ask: Ask,
    ) -> None:
        panel = suite.judges
        assert panel is not None, "a suite with such a scorer has judges"
        labels = await self._judging.labels(panel, suite.model)
        plans = [_Plan(panel, items, system, systems, wanted) for system in systems]
        questions = [question for plan in plans for question in plan.questions]
        try:
            said = await self._judging.ask(panel, [*questions, *(q for _, q in labels)], ask)
        except MainspringError as err:
            if _ends_the_run(err):
                raise
            told.failures += [ScorerFailure(name, "JUDGE_FAILED", f"{err.reason}: {err.message}") for name in wanted]
            return
        reports = [report(panel, verdicts, labels) for verdicts in said]
        voters = [verdicts for verdicts, each in zip(said, reports, strict=True) if each.has_vote]
        if not voters:
            why = "; ".join(f"{each.judge} {each.explanation}" for each in reports)
            told.failures += [ScorerFailure(name, "JUDGES_WITHOUT_VOTE", why) for name in wanted]
        else:
            for plan in plans:
                plan.fill(voters)
        told.judges = tuple(report(panel, verdicts, labels) for verdicts in said)


class _Plan:
    """What the judges are asked about one system's answers, and what their verdicts come to."""

    def __init__(
        self,
        panel: JudgePanel,
        items: Sequence[Item],
        system: Observed,
        systems: Sequence[Observed],
        wanted: Sequence[str],
    ) -> None:
        self._system, self._first = system, system is systems[0]
        self._rubric: dict[int, Question] = {}
        self._preference: dict[int, tuple[Question, Question]] = {}
        self._means: dict[tuple[int, str], list[Question]] = {}
        self._precision: dict[int, list[Question]] = {}
        other = next((each for each in systems if each is not system), None)
        for index, item in enumerate(items):
            answer = system.answers[index]
            if RUBRIC in wanted:
                self._rubric[index] = rubric_question(panel, item.prompt, answer.text)
            if PREFERENCE in wanted and other is not None:
                texts = answer.text, other.answers[index].text
                self._preference[index] = (
                    preference_question(panel, item.prompt, *texts),
                    preference_question(panel, item.prompt, *reversed(texts)),
                )
            if not answer.passages:
                continue
            if FAITHFULNESS in wanted and (said := sentences(answer.text)):
                self._means[index, FAITHFULNESS] = [support_question(answer.passages, each) for each in said]
            if item.references:
                reference = item.references[0]
                if RECALL in wanted and (said := sentences(reference)):
                    self._means[index, RECALL] = [support_question(answer.passages, each) for each in said]
                if PRECISION in wanted:
                    self._precision[index] = [
                        use_question(item.question, passage, reference) for passage in answer.passages
                    ]

    @property
    def questions(self) -> list[Question]:
        """All that is to be asked."""
        several = [*self._preference.values(), *self._means.values(), *self._precision.values()]
        return [*self._rubric.values(), *(question for each in several for question in each)]

    def fill(self, voters: Sequence[Verdicts]) -> None:
        """Writes what the judges with a vote come to."""
        figures = self._system.figures
        for index, question in self._rubric.items():
            if (value := mean_of(voters, question)) is not None:
                figures[index][RUBRIC] = value
        for index, (asked, turned) in self._preference.items():
            values = [v for voter in voters if (v := preference(voter, asked, turned, count=self._first)) is not None]
            if values:
                figures[index][PREFERENCE] = math.fsum(values) / len(values)
        for (index, name), questions in self._means.items():
            values = [value for q in questions if (value := mean_of(voters, q)) is not None]
            if values:
                figures[index][name] = math.fsum(values) / len(values)
        for index, questions in self._precision.items():
            useful = [value > 0.5 for q in questions if (value := mean_of(voters, q)) is not None]
            if useful:
                figures[index][PRECISION] = _average_precision(useful)


def _ends_the_run(err: MainspringError) -> bool:
    """Whether an error is no matter of one scorer: trying again may help, or nothing more may be asked."""
    return isinstance(err, (Unavailable, ConcurrentChange)) or err.reason == "BUDGET_EXCEEDED"


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """Of vectors of length 1."""
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def _average_precision(useful: Sequence[bool]) -> float:
    """Mean precision at the places of what is of use, best first; 0 when nothing is."""
    found, total = 0, 0.0
    for place, is_useful in enumerate(useful, start=1):
        if is_useful:
            found += 1
            total += found / place
    return total / found if found else 0.0
