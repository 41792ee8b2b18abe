"""In-memory fakes of the answer path's ports, for tests of the path and of its doors; each passes the contract suite of
its port in `contracts.answer_path`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from mainspring_answers.domain import Answer, FinishReason, Passage, Question, RoutingTable, Sampling, Scored
from mainspring_answers.ports import Chunk
from mainspring_svckit.errors import InvalidInput, MainspringError, NotFound, Unavailable
from mainspring_svckit.names import ModelName

Script = Callable[[str], AsyncGenerator[Chunk]]
LAST = Chunk("", FinishReason.STOP, 7, 2)
"""How the fake engine ends an answer."""
_MAX_PROMPT_CHARACTERS = 100_000
_PASSAGES = 5


class Asked(NamedTuple):
    """One call of the engine."""

    model: str
    prompt: str
    sampling: Sampling
    stream: bool
    top_logprobs: int


class FakeEngine:
    """`Engine` that says "Hello" in two pieces, or what a test's `script` says."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.closed = 0
        self.gone: set[str] = set()
        self.script: Script = self.says("Hel", "lo")

    @property
    def prompts(self) -> Sequence[str]:
        """What it was asked to continue."""
        return [asked.prompt for asked in self.asked]

    def says(self, *texts: str, failure: MainspringError | None = None, end: bool = True) -> Script:
        """A script of these pieces, which then fails, or ends as an answer does, or (without `end`) just stops."""

        async def script(_: str) -> AsyncGenerator[Chunk]:
            for text in texts:
                yield Chunk(text)
            if failure is not None:
                raise failure
            if end:
                yield LAST

        return script

    async def generate(
        self, model: str, prompt: str, sampling: Sampling, *, stream: bool, top_logprobs: int
    ) -> AsyncGenerator[Chunk]:
        self.asked.append(Asked(model, prompt, sampling, stream, top_logprobs))
        if model in self.gone:
            raise Unavailable("MODEL_NOT_READY", "gone")
        if len(prompt) > _MAX_PROMPT_CHARACTERS:
            raise InvalidInput("too long", reason="CONTEXT_LENGTH_EXCEEDED")
        logprobs = tuple((token, -0.5 * (token + 1)) for token in range(top_logprobs))
        waiting = ""
        try:
            async with aclosing(self.script(model)) as chunks:
                async for chunk in chunks:
                    if chunk.finish_reason is not None:
                        yield replace(chunk, text=waiting + chunk.text, first_token_logprobs=logprobs)
                    elif stream:
                        yield chunk
                    else:
                        waiting += chunk.text
        finally:
            self.closed += 1

    async def score(self, model: str, prompt: str, text: str) -> Scored:
        if model in self.gone:
            raise Unavailable("MODEL_NOT_READY", "gone")
        if not text:
            raise InvalidInput("nothing to score", reason="INVALID_PROMPT")
        if len(prompt) > _MAX_PROMPT_CHARACTERS:
            raise InvalidInput("too long", reason="CONTEXT_LENGTH_EXCEEDED")
        self.asked.append(Asked(model, prompt, Sampling(), False, 0))
        words = text.split() or [text]
        return Scored(tuple((len(word), -0.1 * len(word)) for word in words), len(prompt.split()))


class FakeRoutes:
    """Routing tables in a dictionary: what the controller publishes to and what doors read."""

    def __init__(self, *tables: RoutingTable) -> None:
        self.known = {table.model: table for table in tables}
        self.away = False

    async def publish(self, table: RoutingTable) -> None:
        if self.away:
            raise Unavailable("BUS_UNAVAILABLE", "away")
        known = self.known.get(table.model)
        if known is None or table.revision > known.revision:
            self.known[table.model] = table

    def table(self, model: str) -> RoutingTable | None:
        return self.known.get(model)

    def tables(self, project: str) -> Iterator[RoutingTable]:
        for model in sorted(self.known):
            if ModelName.parse(model).project == project and self.known[model].routes:
                yield self.known[model]


class FakeContext:
    """`Context` with passages in every collection that is not `missing`."""

    def __init__(self) -> None:
        self.missing: set[str] = set()

    async def search(self, collection: str, query: str, top_k: int) -> Sequence[Passage]:
        if collection in self.missing:
            raise NotFound("Collection", collection)
        return [
            Passage(f"d{n}", "Title", f"http://d/{n}", f"passage {n} of {collection}", 1 / n)
            for n in range(1, min(top_k, _PASSAGES) + 1)
        ]


class FakeLedger:
    """`Ledger` that remembers."""

    def __init__(self) -> None:
        self.records: list[tuple[Question, Answer]] = []
        self.failure: MainspringError | None = None

    @property
    def answers(self) -> Sequence[Answer]:
        """The recorded answers."""
        return [answer for _, answer in self.records]

    async def record(self, question: Question, answer: Answer) -> None:
        if self.failure is not None:
            raise self.failure
        self.records.append((question, answer))
