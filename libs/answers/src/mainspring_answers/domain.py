"""Questions, answers and routes; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mainspring_svckit.errors import InvalidInput, NotFound
from mainspring_svckit.names import ModelName, ModelVersionName
from mainspring_svckit.values import NO_UNIT, Message, ServedUnit

DEFAULT_MAX_OUTPUT_TOKENS = 256
DEFAULT_TEMPERATURE = 0.7
DEFAULT_TOP_K = 3


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_output_tokens: Most tokens of the answer.
        temperature: 0 takes the most probable token every time.
        top_p: Smallest set of tokens with at least this probability is sampled from.
        seed: None for a random one.
        stop: Texts that end the answer and are not part of it.
    """

    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    temperature: float = DEFAULT_TEMPERATURE
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class SamplingWish:
    """How a caller wants tokens to be chosen; None for what the release says, or the default.

    Attributes:
        max_output_tokens: Most tokens of the answer; at most what the release allows.
        temperature: 0 takes the most probable token every time.
        top_p: As `Sampling`.
        seed: As `Sampling`.
        stop: As `Sampling`.
    """

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def under(self, unit: ServedUnit) -> Sampling:
        """What the wish comes to with what a release names."""
        most = self.max_output_tokens or unit.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
        if unit.max_output_tokens:
            most = min(most, unit.max_output_tokens)
        temperature = unit.temperature if self.temperature is None else self.temperature
        return Sampling(
            most, DEFAULT_TEMPERATURE if temperature is None else temperature, self.top_p, self.seed, self.stop
        )


@dataclass(frozen=True)
class ContextWish:
    """Passages of a collection that should stand before the question."""

    collection: str
    top_k: int = DEFAULT_TOP_K


@dataclass(frozen=True)
class Question:
    """What a door was asked; either `messages` or `raw_prompt`.

    Attributes:
        project: Who asks.
        model: Resource name of a model (follows releases) or of one deployed version.
        caller: Subject of the caller's token.
        messages: The conversation, ending with the message to answer.
        raw_prompt: Text to continue as it stands.
        sampling: How tokens should be chosen.
        context: Passages to put before the question.
        session: Requests of one session are answered by the same version during a roll-out.
        top_logprobs: How many of the most probable first tokens to return.
        unit: What a version should be asked with, None for nothing but its release's guard; a model's release has a
            word of its own on that.
    """

    project: str
    model: str
    caller: str = ""
    messages: tuple[Message, ...] = ()
    raw_prompt: str = ""
    sampling: SamplingWish = field(default_factory=SamplingWish)
    context: ContextWish | None = None
    session: str = ""
    top_logprobs: int = 0
    unit: ServedUnit | None = None


class FinishReason(StrEnum):
    """Why an answer ended; the last two only in the ledger."""

    STOP = "STOP"
    LENGTH = "LENGTH"
    CONTENT_FILTER = "CONTENT_FILTER"
    CANCELLED = "CANCELLED"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Passage:
    """A piece of a document that was found."""

    document_id: str
    title: str
    uri: str
    text: str
    score: float


@dataclass(frozen=True)
class Citation:
    """A passage that the model was given, under the number by which the prompt names it."""

    number: int
    passage: Passage


@dataclass(frozen=True)
class Answer:
    """What a model said. Latencies are in seconds from the question's arrival; `guard_rules` found something."""

    name: str
    text: str
    finish_reason: FinishReason
    model_version: str
    release: str
    input_tokens: int
    output_tokens: int
    citations: tuple[Citation, ...]
    create_time: datetime
    first_token_latency_s: float
    latency_s: float
    first_token_logprobs: tuple[tuple[int, float], ...] = ()
    prompt_version: str = ""
    guard_policy_version: str = ""
    guard_rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """The tokens of a given text, each with its natural log-probability, and the tokens before it."""

    tokens: tuple[tuple[int, float], ...]
    input_tokens: int


@dataclass(frozen=True)
class Delta:
    """Text to append to what was sent before, and the name of the answer that it belongs to."""

    text: str
    answer: str = ""


@dataclass(frozen=True)
class Route:
    """One deployment under one release, or none, with all that a door needs to answer with it."""

    model_version: str
    release: str
    percent: int
    triton_model: str
    context_tokens: int = 0
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    dimensions: int = 0
    cycle: str = ""
    unit: ServedUnit = NO_UNIT


@dataclass(frozen=True)
class RoutingTable:
    """Which deployments answer for a model; a higher revision replaces a lower one."""

    model: str
    revision: int
    routes: tuple[Route, ...]

    @property
    def main_route(self) -> Route | None:
        """The route with most of the traffic; without releases the newest version."""
        return max(self.routes, key=lambda r: (r.percent, *_age(r)), default=None)


def model_of(name: str) -> str:
    """The model that a model's or a version's name belongs to.

    Raises:
        InvalidInput: It is neither.
    """
    if ModelVersionName.matches(name):
        version = ModelVersionName.parse(name)
        return str(ModelName(version.project, version.model))
    return str(ModelName.parse(name, "model"))


def choose_route(table: RoutingTable | None, name: str, key: str) -> Route:
    """The deployment that answers a question.

    Args:
        table: The model's routing table, None when there is none.
        name: What the caller asked for: a model or a version.
        key: The same key gets the same route as long as the shares stay; shares growing in favour of a route never
            move a key away from it.

    A version that was not released, or is no longer, has the guard of the model's main route: naming it must not be a
    way around.

    Raises:
        NotFound: Nothing is deployed under that name.
    """
    if table is None:
        raise NotFound("ServedModel", name)
    routes = table.routes
    if name != table.model:
        for route in routes:
            if route.model_version == name:
                return _guarded_as(table, route)
        raise NotFound("ServedModel", name)
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 10_000 / 100
    # The newest release stands first, so that raising its share from 10 to 25 percent keeps the first 10 where they
    # are.
    for route in sorted(routes, key=_age, reverse=True):
        if point < route.percent:
            return route
        point -= route.percent
    raise NotFound("ServedModel", name)


def with_prompt(prompt: Sequence[Message], messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with a release's prompt before it.

    A system message that the conversation begins with joins the prompt's, since many templates take only one.
    """
    if not prompt:
        return tuple(messages)
    first, *rest = messages
    if first.role != "system":
        return (*prompt, *messages)
    own = next((index for index, message in enumerate(prompt) if message.role == "system"), None)
    if own is None:
        return (first, *prompt, *rest)
    joined = Message("system", f"{prompt[own].content}\n\n{first.content}")
    return (*prompt[:own], joined, *prompt[own + 1 :], *rest)


def with_context(
    messages: Sequence[Message], passages: Sequence[Passage]
) -> tuple[tuple[Message, ...], tuple[Citation, ...]]:
    """The conversation with numbered passages put before its last message, and the citations that the numbers mean."""
    citations = tuple(Citation(number, passage) for number, passage in enumerate(passages, start=1))
    if not citations:
        return tuple(messages), ()
    last = messages[-1]
    blocks = "\n\n".join(f"[{c.number}] {c.passage.title}\n{c.passage.text}" for c in citations)
    content = f"Use these passages where they help, and name their numbers.\n\n{blocks}\n\n{last.content}"
    return (*messages[:-1], Message(last.role, content)), citations


def check_question(question: Question) -> None:
    """Raises `InvalidInput` for what no constraint of a contract can say."""
    if question.messages and question.messages[-1].role == "assistant":
        raise InvalidInput("the last message must be the user's or the system's", reason="LAST_MESSAGE_IS_ANSWER")
    if question.context is not None and not question.messages:
        raise InvalidInput(
            "context can only be put before messages, not before a raw prompt", reason="CONTEXT_NEEDS_MESSAGES"
        )


def _guarded_as(table: RoutingTable, route: Route) -> Route:
    main = table.main_route
    if route.release or main is None or main.unit.guard is None:
        return route
    return replace(route, unit=replace(route.unit, guard=main.unit.guard))


def _age(route: Route) -> tuple[int, int]:
    """What is newer is greater; two releases of one version are told apart by their numbers."""
    return _number(route.model_version), _number(route.release)


def _number(name: str) -> int:
    number = name.rsplit("/", 1)[-1]
    return int(number) if number.isdigit() else 0
