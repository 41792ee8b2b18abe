"""What models are asked, and what they said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mainspring_evaluator.domain.suites import Retrieval, SafetySet, Sampling
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import Message

ROLES = frozenset({"system", "user", "assistant"})
# Hash order decides which items are kept, so what is beyond the wanted number is only dropped now and then.
_SPARE = 1_000


Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Item:
    """One input with the answers that people wrote for it.

    Attributes:
        prompt: What is asked.
        references: Answers that people wrote.
        task: Source of the suite that it is from; empty for the suite's dataset.
        slices: Slices that it is in.
        safety: What it tries, for items of a safety set.
        forbidden: Text that an answer must not hold, for attacks that are recognised by one.
        choices: Answers whose probabilities are compared; empty for an item that is answered in words alone.
        right: Places of the right ones among them.
    """

    prompt: Prompt
    references: tuple[str, ...]
    task: str = ""
    slices: tuple[str, ...] = ()
    safety: SafetySet | None = None
    forbidden: str = ""
    choices: tuple[str, ...] = ()
    right: tuple[int, ...] = ()

    @property
    def question(self) -> str:
        """The last message."""
        return self.prompt[-1].content

    @property
    def sha256(self) -> str:
        """Digest of what is asked and, where choices are compared, of them and what is right."""
        asked = prompt_digest(self.prompt)
        return _digest([asked, self.choices, self.right]) if self.choices else asked


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: The words.
        latency_s: How long the whole answer took.
        first_token_s: How long the first token took; 0 when nobody watched.
        input_tokens: Tokens read; 0 for unknown.
        output_tokens: Tokens generated; 0 for unknown.
        passages: What the model was given to read, best first.
    """

    text: str
    latency_s: float
    first_token_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    passages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """An item with one model's answer, and what others said of it, by scorer."""

    item: Item
    answer: Answer
    observed: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class EvaluationItem:
    """An item of a run with both answers and their scores by scorer.

    Attributes:
        name: The run's name and the index, unique.
        run: Name of the run.
        index: Position in the run, from 0.
        prompt: What both models were given.
        references: Answers that people wrote.
        candidate_text: The candidate's answer.
        baseline_text: The baseline's answer; empty without a baseline.
        candidate_scores: By scorer.
        baseline_scores: By scorer; empty without a baseline.
        task: Source of the suite that it is from; empty for the suite's dataset.
        slices: Slices that it is in.
        prompt_sha256: What pairs it with the items of other runs; empty for items from before they were paired.
    """

    name: str
    run: str
    index: int
    prompt: Prompt
    references: tuple[str, ...]
    candidate_text: str
    baseline_text: str = ""
    candidate_scores: Mapping[str, float] = field(default_factory=dict[str, float])
    baseline_scores: Mapping[str, float] = field(default_factory=dict[str, float])
    task: str = ""
    slices: tuple[str, ...] = ()
    prompt_sha256: str = ""


class Outcome(StrEnum):
    """How the candidate's score of an item compares with the baseline's, as numbers."""

    HIGHER = "higher"
    LOWER = "lower"
    EQUAL = "equal"


@dataclass(frozen=True)
class ItemFilter:
    """Which items of a run are wanted; what is empty does not matter.

    Attributes:
        slice: Slice, or `task:ID`.
        contains: Text in question, answers or references, whatever its case.
        scorer: Scorer that `outcome` is about.
        outcome: How it compares.
    """

    slice: str = ""
    contains: str = ""
    scorer: str = ""
    outcome: Outcome | None = None

    def takes(self, item: EvaluationItem) -> bool:
        """Whether an item is wanted; what Postgres does, for few."""
        if self.slice and self.slice not in (*item.slices, f"task:{item.task}"):
            return False
        texts = (item.prompt[-1].content, item.candidate_text, item.baseline_text, *item.references)
        if self.contains and not any(self.contains.casefold() in text.casefold() for text in texts):
            return False
        if self.outcome is None:
            return True
        own, other = item.candidate_scores.get(self.scorer), item.baseline_scores.get(self.scorer)
        if own is None or other is None:
            return False
        return self.outcome is (Outcome.EQUAL if own == other else Outcome.HIGHER if own > other else Outcome.LOWER)


class ItemSelection:
    """Groups rows by what was asked and keeps at most `max_items` questions, the same ones whatever the rows' order.

    Which ones is decided by a hash of the question, so a dataset that grows keeps most of its items, and memory is
    bounded by `max_items`.
    """

    def __init__(self, max_items: int) -> None:
        """Takes the most items to keep; 0 keeps all."""
        self._max_items = max_items
        self._found: dict[str, tuple[Prompt, list[str]]] = {}
        self._bound: str | None = None

    def add(self, messages: Sequence[Message]) -> None:
        """Takes one row; its last message is a reference, those before it are the question.

        Raises:
            PreconditionFailed: DATASET_UNREADABLE, the row is no conversation with an answer.
        """
        if len(messages) < 2 or any(message.role not in ROLES for message in messages):
            roles = ", ".join(message.role for message in messages) or "nothing"
            raise PreconditionFailed(
                "DATASET_UNREADABLE",
                f"a row holds {roles}; a row needs a question and an answer by system, user or assistant",
            )
        prompt = tuple(messages[:-1])
        digest = prompt_digest(prompt)
        if self._bound is not None and digest > self._bound:
            return
        self._found.setdefault(digest, (prompt, []))[1].append(messages[-1].content)
        if self._max_items and len(self._found) > self._max_items + _SPARE:
            self._prune()

    def items(self) -> tuple[Item, ...]:
        """What was kept, in the order of the hash."""
        self._prune()
        return tuple(Item(prompt, tuple(references)) for _, (prompt, references) in sorted(self._found.items()))

    def _prune(self) -> None:
        if not self._max_items or len(self._found) <= self._max_items:
            return
        kept = sorted(self._found)[: self._max_items]
        self._found = {digest: self._found[digest] for digest in kept}
        self._bound = kept[-1]


def question_digest(question: str) -> str:
    """Digest of a question whatever its case and spaces; equal ones are the same question to a person."""
    return _digest(" ".join(question.casefold().split()))


def prompt_digest(prompt: Prompt) -> str:
    """SHA-256 of a question, whatever surrounds it."""
    return _digest([[message.role, message.content] for message in prompt])


def answer_key(
    manifest_sha256: str,
    prompt: Prompt,
    sampling: Sampling,
    *,
    context: Retrieval | None = None,
    timed: bool = False,
) -> str:
    """Under what an answer is kept: the same files, question, passages and sampling give the same answer.

    Answers whose first token was timed are kept apart, since those that were not cannot tell.
    """
    seeded = [sampling.temperature, sampling.seed] if sampling.temperature else [0.0, 0]
    further = [[context.collection, context.top_k]] if context is not None else []
    if timed:
        further.append(["timed", 1])
    return _digest([manifest_sha256, prompt_digest(prompt), sampling.max_output_tokens, *seeded, *further])


def observation_key(*parts: object) -> str:
    """Under what a figure is kept that somebody else was asked for, such as a judge."""
    return _digest(["observation", *parts])


def storable(text: str) -> str:
    """The text as Postgres can hold it in JSON; a model may well generate the character NUL, which it cannot."""
    return text.replace("\x00", "\ufffd")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()
