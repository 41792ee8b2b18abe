"""What people say of answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mainspring_feedback.domain.answers import Answer
from mainspring_svckit.errors import InvalidInput

GOOD_SCORE, BAD_SCORE = 0.7, 0.3
"""Scores from which, and up to which, an answer counts as good and as bad where its judgement is collected."""


class Kind(StrEnum):
    """How an answer was judged."""

    THUMB = "THUMB"
    SCORE = "SCORE"
    CORRECTION = "CORRECTION"
    PREFERENCE = "PREFERENCE"


@dataclass(frozen=True)
class Judgement:
    """One judgement.

    Attributes:
        kind: Which of the following it is.
        value: 1 or 0 for a thumb, 0 to 1 for a score, 0 for a correction, 1 for a preferred answer.
        correction: The answer as it should have been; empty for other kinds.
        rejected_answer: Name of the worse answer; empty for other kinds.
    """

    kind: Kind
    value: float
    correction: str = ""
    rejected_answer: str = ""

    @property
    def as_lesson(self) -> Judgement | None:
        """The judgement with a score as the thumb that it comes to; None when it says neither good nor bad."""
        if self.kind is not Kind.SCORE:
            return self
        if GOOD_SCORE > self.value > BAD_SCORE:
            return None
        return Judgement(Kind.THUMB, float(self.value >= GOOD_SCORE))


@dataclass(frozen=True)
class FeedbackItem:
    """A judgement of an answer, with who gave it and which version answered."""

    name: str
    answer: str
    judgement: Judgement
    comment: str
    author: str
    model_version: str
    release: str
    create_time: datetime


@dataclass(frozen=True)
class Lesson:
    """An item that a model can learn from, with its place among those of the model, from 1 and without gaps."""

    model: str
    number: int
    answer: str
    item: str
    kind: Kind = Kind.CORRECTION

    @property
    def name(self) -> str:
        """Identifies it; not a resource of the contracts."""
        return f"{self.model}/lessons/{self.number}"

    @property
    def is_thumb(self) -> bool:
        """Whether it says of an answer only that it was good or bad."""
        return self.kind is Kind.THUMB

    def replaces(self, earlier: Lesson | None) -> bool:
        """Whether it takes the place of an earlier one on the same answer: a thumb teaches less than a better text."""
        return earlier is None or earlier.is_thumb or not self.is_thumb


@dataclass(frozen=True)
class JudgedModel:
    """A model's count of lessons; its row is locked while one is added, so that their numbers follow commits."""

    name: str
    lessons: int = 0


@dataclass(frozen=True)
class Example:
    """What a judgement teaches about the last message of a conversation.

    Attributes:
        text: The last message.
        rejected: A worse one; empty when none is known.
        desirable: A thumb on the last message; None without one.
    """

    text: str
    rejected: str = ""
    desirable: bool | None = None


def example_of(judgement: Judgement, answer: Answer, rejected: Answer | None = None) -> Example | None:
    """What can be learned from a judgement; None when nothing can. `rejected` is the worse answer of a preference."""
    if not answer.messages:
        return None
    said = answer.text if answer.text.strip() else ""
    match judgement.kind:
        case Kind.CORRECTION if judgement.correction:
            return Example(judgement.correction, said if said != judgement.correction else "")
        case Kind.PREFERENCE if said:
            worse = rejected.text if rejected is not None and rejected.text.strip() else ""
            return Example(said, worse if worse != said else "")
        case Kind.THUMB if said:
            return Example(said, desirable=bool(judgement.value))
        case _:
            return None


def most_telling(items: Iterable[FeedbackItem]) -> FeedbackItem | None:
    """Of what people said of one answer, newest first, the item that teaches most; None when none teaches anything."""
    best: FeedbackItem | None = None
    for item in items:
        if item.judgement.as_lesson is not None and (best is None or _rank(item) > _rank(best)):
            best = item
    return best


def _rank(item: FeedbackItem) -> int:
    return (Kind.SCORE, Kind.THUMB).index(item.judgement.kind) if item.judgement.kind in (Kind.SCORE, Kind.THUMB) else 2


def check_comparable(preferred: Answer, rejected: Answer) -> None:
    """Raises `InvalidInput` unless two answers are different ones to the same messages."""
    if preferred.name == rejected.name:
        message = "an answer cannot be better than itself; name the other one as rejected_answer"
        raise InvalidInput(message, reason="SAME_ANSWER")
    if preferred.messages != rejected.messages:
        message = f"{preferred.name} and {rejected.name} answer different messages, so neither is better"
        raise InvalidInput(message, reason="MESSAGES_DIFFER")
