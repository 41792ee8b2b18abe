"""What models are asked, and what they said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mainspring_evaluator.domain.suites import Sampling
from mainspring_svckit.errors import PreconditionFailed

ROLES = frozenset({"system", "user", "assistant"})
# Hash order decides which items are kept, so what is beyond the wanted number is only dropped now and then.
_SPARE = 1_000


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is one of `ROLES`."""

    role: str
    content: str


Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Item:
    """One input with the answers that people wrote for it."""

    prompt: Prompt
    references: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a model said, and how long the whole answer took."""

    text: str
    latency_s: float


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
                f"a test row holds {roles}; a row needs a question and an answer by system, user or assistant",
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


def prompt_digest(prompt: Prompt) -> str:
    """SHA-256 of a question, whatever surrounds it."""
    return _digest([[message.role, message.content] for message in prompt])


def answer_key(manifest_sha256: str, prompt: Prompt, sampling: Sampling) -> str:
    """Under what an answer is kept: the same files, question and sampling give the same answer."""
    seeded = [sampling.temperature, sampling.seed] if sampling.temperature else [0.0, 0]
    return _digest([manifest_sha256, prompt_digest(prompt), sampling.max_output_tokens, *seeded])


def storable(text: str) -> str:
    """The text as Postgres can hold it in JSON; a model may well generate the character NUL, which it cannot."""
    return text.replace("\x00", "\ufffd")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()
