"""What an engine does, whatever computes it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

OnText = Callable[[str], None]
Cancelled = Callable[[], bool]


class Reason(StrEnum):
    """Why a request was refused or failed. Contract: error messages begin with it, then a colon."""

    CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
    INVALID_SAMPLING = "INVALID_SAMPLING"
    INVALID_PROMPT = "INVALID_PROMPT"
    OVERLOADED = "OVERLOADED"
    ENGINE_FAILED = "ENGINE_FAILED"


class EngineError(Exception):
    """A request that cannot be answered; its text is `REASON: message`."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message = reason, message


class FinishReason(StrEnum):
    """Why a generation ended, in vLLM's words."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "abort"


SCORED_TOKENS_MAX = 1_024
"""Tokens of a continuation whose probabilities can be asked for."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the most probable token every time.
        top_p: Smallest set of tokens with at least this probability is sampled from.
        max_tokens: Most tokens of the answer.
        seed: None for a random one.
        stop: Texts that end the answer and are not part of it.
        logprobs: How many of the most probable first tokens to report.
        ignore_eos: Goes on after the token that ends an answer; for measurements.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 16
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int = 0
    ignore_eos: bool = False


@dataclass(frozen=True)
class Generated:
    """What is known when a generation has ended; its text went out through `on_text`.

    Attributes:
        finish_reason: Why it ended.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens that were generated.
        first_token: Token ids with natural log-probabilities of the first position, best first, when asked for.
    """

    finish_reason: FinishReason
    input_tokens: int
    output_tokens: int
    first_token: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Scored:
    """The tokens of a given text, each with its natural log-probability after all that stands before it."""

    tokens: tuple[tuple[int, float], ...]
    input_tokens: int


@dataclass(frozen=True)
class Embedded:
    """Vectors in the order of the texts, one row each as little-endian float32, and what they cost."""

    vectors: tuple[bytes, ...]
    input_tokens: int


class Engine(Protocol):
    """One loaded model. All methods may be called from many threads at once."""

    def generate(self, prompt: str, sampling: Sampling, on_text: OnText, cancelled: Cancelled) -> Generated:
        """Continues a prompt.

        Args:
            prompt: Text with its template applied.
            sampling: How tokens are chosen.
            on_text: Called in this thread with each piece of text; no piece ends inside a code point.
            cancelled: Asked every now and then; true ends the generation within a second.

        Raises:
            EngineError: CONTEXT_LENGTH_EXCEEDED before any work, INVALID_PROMPT, or ENGINE_FAILED.
        """
        ...

    def score(self, prompt: str, continuation: str, cancelled: Cancelled) -> Scored:
        """How probable a given continuation of a prompt is, token by token; costs about as much as generating it.

        Raises:
            EngineError: CONTEXT_LENGTH_EXCEEDED, INVALID_PROMPT (also for a continuation of more than
                `SCORED_TOKENS_MAX` tokens), or ENGINE_FAILED.
        """
        ...

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Computes one unit vector for each text.

        Raises:
            EngineError: CONTEXT_LENGTH_EXCEEDED, INVALID_PROMPT or ENGINE_FAILED.
        """
        ...
