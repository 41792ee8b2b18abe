"""What people say of answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mainspring_feedback.domain.answers import Answer
from mainspring_svckit.errors import InvalidInput


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

    @property
    def name(self) -> str:
        """Identifies it; not a resource of the contracts."""
        return f"{self.model}/lessons/{self.number}"


@dataclass(frozen=True)
class JudgedModel:
    """A model's count of lessons; its row is locked while one is added, so that their numbers follow commits."""

    name: str
    lessons: int = 0


def lesson_of(judgement: Judgement, answer: Answer) -> str:
    """The text that an answer should have had; empty when nothing can be learned from the judgement."""
    if not answer.messages:
        return ""
    match judgement.kind:
        case Kind.CORRECTION:
            return judgement.correction
        case Kind.PREFERENCE:
            return answer.text if answer.text.strip() else ""
        case _:
            return ""


def check_comparable(preferred: Answer, rejected: Answer) -> None:
    """Raises `InvalidInput` unless two answers are different ones to the same messages."""
    if preferred.name == rejected.name:
        message = "an answer cannot be better than itself; name the other one as rejected_answer"
        raise InvalidInput(message, reason="SAME_ANSWER")
    if preferred.messages != rejected.messages:
        message = f"{preferred.name} and {rejected.name} answer different messages, so neither is better"
        raise InvalidInput(message, reason="MESSAGES_DIFFER")
