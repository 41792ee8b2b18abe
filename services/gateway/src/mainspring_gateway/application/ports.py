"""The services behind the door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Embedded:
    """Vectors of length 1, one per text, with the model that made them and the tokens read."""

    vectors: Sequence[Sequence[float]]
    model_version: str
    tokens: int


class Embeddings(Protocol):
    """The embedder."""

    async def embed(self, project: str, model: str, texts: Sequence[str]) -> Embedded:
        """Turns texts into vectors.

        Raises:
            MainspringError: As the embedder says.
        """
        ...


@dataclass(frozen=True)
class Judgement:
    """What somebody says of an answer; exactly one of the values is set."""

    answer: str
    thumb: bool | None = None
    score: float | None = None
    correction: str | None = None
    rejected_answer: str | None = None
    comment: str = ""


class Feedback(Protocol):
    """The feedback service."""

    async def send(self, project: str, judgement: Judgement, *, request_id: str, authorization: str) -> str:
        """Records a judgement in the caller's own name; returns the item's name.

        Raises:
            MainspringError: As the feedback service says.
        """
        ...
