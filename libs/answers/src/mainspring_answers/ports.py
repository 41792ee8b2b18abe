"""What the answer path needs from outside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mainspring_answers.domain import Answer, FinishReason, Passage, Question, Route, RoutingTable, Sampling, Scored
from mainspring_svckit.values import Message


@dataclass(frozen=True)
class Chunk:
    """What the engine sends: text, and with the last chunk why it ended and what it counted.

    Attributes:
        text: Text to append; may be empty.
        finish_reason: Set in the last chunk only.
        input_tokens: Set in the last chunk only.
        output_tokens: Set in the last chunk only.
        first_token_logprobs: Token ids with natural log-probabilities, in the last chunk, when asked for.
    """

    text: str
    finish_reason: FinishReason | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    first_token_logprobs: tuple[tuple[int, float], ...] = ()


class Engine(Protocol):
    """Generates text."""

    def generate(
        self, model: str, prompt: str, sampling: Sampling, *, stream: bool, top_logprobs: int
    ) -> AsyncGenerator[Chunk]:
        """Continues a prompt; closing the iterator stops the generation.

        Args:
            model: Name of the model in the engine.
            prompt: Text with its template applied.
            sampling: How tokens are chosen.
            stream: Whether text is wanted as it comes; else it all comes in the last chunk.
            top_logprobs: How many of the most probable first tokens to report.

        Raises:
            InvalidInput: CONTEXT_LENGTH_EXCEEDED, the prompt is too long.
            Unavailable: The engine or the model is away.
        """
        ...

    async def score(self, model: str, prompt: str, text: str) -> Scored:
        """How probable a given text is after a prompt, token by token.

        Raises:
            InvalidInput: CONTEXT_LENGTH_EXCEEDED or INVALID_PROMPT, one of them is empty or too long.
            Unavailable: The engine or the model is away.
        """
        ...


class Routes(Protocol):
    """Knows the routing tables."""

    def table(self, model: str) -> RoutingTable | None:
        """The newest table of a model."""
        ...


class Templates(Protocol):
    """Turns conversations into prompts."""

    def render(self, route: Route, messages: Sequence[Message]) -> str:
        """The prompt for a route.

        Raises:
            InvalidInput: The model's template does not take such a conversation.
        """
        ...


class Context(Protocol):
    """Finds passages."""

    async def search(self, collection: str, query: str, top_k: int) -> Sequence[Passage]:
        """The nearest passages of a collection, best first.

        Raises:
            NotFound: There is no such collection.
            Unavailable: It cannot be searched now.
        """
        ...


class Ledger(Protocol):
    """Keeps a record of every answer."""

    async def record(self, question: Question, answer: Answer) -> None:
        """Returns when the record is durable.

        Raises:
            Unavailable: LEDGER_UNAVAILABLE, it could not be made durable in time.
        """
        ...
