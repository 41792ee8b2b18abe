"""The contracts of the answer path's ports."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Protocol

import pytest

from mainspring_answers.domain import (
    Answer,
    FinishReason,
    Question,
    Route,
    RoutingTable,
    Sampling,
)
from mainspring_answers.ports import Chunk, Context, Engine, Ledger
from mainspring_svckit.errors import InvalidInput, NotFound, Unavailable
from mainspring_svckit.values import (
    GuardAction,
    GuardDirection,
    GuardRule,
    Message,
    PersonalDataKind,
    ServedGuard,
    ServedUnit,
    rules_sha256,
)
from mainspring_testkit.waiting import eventually

_GREEDY = Sampling(12, 0.0)
_PROMPT = "Return the number"
_RULES = (
    GuardRule("a", GuardDirection.INPUT, GuardAction.REFUSE, "é", exact=True, texts=("x", "y"), whole_words=True),
    GuardRule("b", GuardDirection.BOTH, GuardAction.MASK, "", expressions=("x{2}",)),
    GuardRule("c", GuardDirection.OUTPUT, GuardAction.RECORD, personal_data=tuple(PersonalDataKind)),
)
_GUARD = ServedGuard("projects/p/guardPolicies/g/versions/1", rules_sha256(_RULES), _RULES)
_UNIT = ServedUnit(
    "projects/p/prompts/q/versions/1", (Message("system", "é"),), "projects/p/collections/c", 0.0, 9, _GUARD
)


class EngineContract:
    """What every engine does.

    Subclasses give the fixtures `engine`, `model` (one that it serves), `missing` (one that it does not) and
    `too_long` (a prompt that no model takes).
    """

    async def _answer(self, engine: Engine, model: str, *, stream: bool, top_logprobs: int = 0) -> list[Chunk]:
        chunks = engine.generate(model, _PROMPT, _GREEDY, stream=stream, top_logprobs=top_logprobs)
        return [chunk async for chunk in chunks]

    async def test_the_last_chunk_and_no_other_says_why_it_ended_and_counts(self, engine: Engine, model: str) -> None:
        *before, last = await self._answer(engine, model, stream=True)
        assert before
        assert {(c.finish_reason, c.input_tokens, c.output_tokens, c.first_token_logprobs) for c in before} == {
            (None, 0, 0, ())
        }
        assert last.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
        assert min(last.input_tokens, last.output_tokens) > 0

    async def test_without_a_stream_the_same_text_comes_in_one_chunk(self, engine: Engine, model: str) -> None:
        streamed = await self._answer(engine, model, stream=True)
        (whole,) = await self._answer(engine, model, stream=False)
        assert whole.text == "".join(chunk.text for chunk in streamed)
        assert whole.finish_reason is streamed[-1].finish_reason

    @pytest.mark.parametrize("stream", [True, False])
    async def test_as_many_first_tokens_as_asked_for_come_best_first(
        self, engine: Engine, model: str, stream: bool
    ) -> None:
        for count in (0, 3):
            last = (await self._answer(engine, model, stream=stream, top_logprobs=count))[-1]
            logprobs = [logprob for _, logprob in last.first_token_logprobs]
            assert len(logprobs) == count
            assert logprobs == sorted(logprobs, reverse=True)

    async def test_f16_a_model_that_is_not_there_is_unavailable(self, engine: Engine, missing: str) -> None:
        with pytest.raises(Unavailable) as caught:
            await self._answer(engine, missing, stream=True)
        assert caught.value.reason == "MODEL_NOT_READY"

    async def test_b4_a_prompt_that_is_too_long_is_refused(self, engine: Engine, model: str, too_long: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            [_ async for _ in engine.generate(model, too_long, _GREEDY, stream=True, top_logprobs=0)]
        assert caught.value.reason == "CONTEXT_LENGTH_EXCEEDED"

    async def test_a_given_text_has_a_probability_for_each_token_always_the_same(
        self, engine: Engine, model: str
    ) -> None:
        first, again = [await engine.score(model, _PROMPT, " of all things") for _ in range(2)]
        assert [token for token, _ in first.tokens] == [token for token, _ in again.tokens]
        assert len(first.tokens) > 1
        logprobs = [logprob for _, logprob in first.tokens]
        assert logprobs == pytest.approx([logprob for _, logprob in again.tokens], abs=1e-3)
        assert max(logprobs) < 0 < first.input_tokens

    async def test_b4_a_text_that_cannot_be_scored_is_refused(
        self, engine: Engine, model: str, missing: str, too_long: str
    ) -> None:
        for prompt, text, reason in ((_PROMPT, "", "INVALID_PROMPT"), (too_long, "a", "CONTEXT_LENGTH_EXCEEDED")):
            with pytest.raises(InvalidInput) as caught:
                await engine.score(model, prompt, text)
            assert caught.value.reason == reason
        with pytest.raises(Unavailable):
            await engine.score(missing, _PROMPT, "a")

    async def test_f18_an_answer_may_be_left_at_any_chunk(self, engine: Engine, model: str) -> None:
        async with aclosing(engine.generate(model, _PROMPT, _GREEDY, stream=True, top_logprobs=0)) as chunks:
            async for _ in chunks:
                break
        assert await self._answer(engine, model, stream=True)


class Reads(Protocol):
    """What doors read."""

    def table(self, model: str) -> RoutingTable | None:
        """The newest table of a model."""
        ...

    def tables(self, project: str) -> Iterable[RoutingTable]:
        """The tables of a project that have routes."""
        ...


class Publishes(Protocol):
    """What the controller publishes to."""

    async def publish(self, table: RoutingTable) -> None:
        """Puts a table up unless a newer one is there."""
        ...


def routing_table(revision: int, model: str = "projects/p/models/m", *, percent: int = 100) -> RoutingTable:
    """A table with everything in it."""
    route = Route(
        f"{model}/versions/1", f"{model}/releases/1", percent, "t", 2048, "{{ é }}", "<s>", "</s>", 3, "c", _UNIT
    )
    return RoutingTable(model, revision, (route,))


class RoutingContract:
    """What routing tables do between who publishes and who reads; fixtures `board` and `routes`, empty."""

    async def _read(self, routes: Reads, wanted: RoutingTable) -> None:
        async def arrived() -> bool:
            return routes.table(wanted.model) == wanted

        await eventually(arrived, what=f"revision {wanted.revision} of {wanted.model}")

    async def test_doors_read_whole_what_was_published_last(self, board: Publishes, routes: Reads) -> None:
        assert routes.table("projects/p/models/m") is None
        for table in (routing_table(1), routing_table(2, percent=30)):
            await board.publish(table)
            await self._read(routes, table)

    async def test_f17_an_older_table_never_replaces_a_newer(self, board: Publishes, routes: Reads) -> None:
        await asyncio.gather(*(board.publish(routing_table(n, percent=n)) for n in (3, 7, 5, 7, 1)))
        await board.publish(routing_table(7, percent=99))
        last = routing_table(1, "projects/p/models/z")
        await board.publish(last)
        await self._read(routes, last)
        assert routes.table("projects/p/models/m") == routing_table(7, percent=7)

    async def test_i8_a_projects_tables_are_its_own_and_have_routes(self, board: Publishes, routes: Reads) -> None:
        shown = [routing_table(1, f"projects/p/models/{name}") for name in ("a", "b")]
        empty = RoutingTable("projects/p/models/c", 1, ())
        for table in (shown[1], routing_table(1, "projects/q/models/m"), empty, shown[0]):
            await board.publish(table)
        await self._read(routes, shown[0])
        assert list(routes.tables("p")) == shown
        assert routes.table(empty.model) == empty


class ContextContract:
    """What every search for context does; fixtures `context`, `collection` (with passages) and `missing` (none)."""

    async def test_passages_come_best_first_and_no_more_than_asked_for(self, context: Context, collection: str) -> None:
        three = await context.search(collection, "anything", 3)
        assert len(three) == 3
        assert [p.score for p in three] == sorted((p.score for p in three), reverse=True)
        assert all(p.document_id and p.title and p.uri and p.text for p in three)
        assert list(await context.search(collection, "anything", 1)) == list(three[:1])

    async def test_a_collection_that_is_not_there_is_not_found(self, context: Context, missing: str) -> None:
        with pytest.raises(NotFound):
            await context.search(missing, "anything", 3)


class LedgerContract:
    """What every ledger does; fixtures `ledger` and `recorded`: names of the answers that are kept."""

    async def test_an_answer_is_kept_when_recording_returns(
        self, ledger: Ledger, recorded: Callable[[], Awaitable[list[str]]]
    ) -> None:
        question = Question("p", "projects/p/models/m", "ann", (Message("user", "asked \x00 é"),))
        names = [f"projects/p/answers/{number}" for number in range(20)]

        async def record(name: str) -> None:
            now = datetime(2026, 1, 1, tzinfo=UTC)
            version = "projects/p/models/m/versions/1"
            await ledger.record(question, Answer(name, "x", FinishReason.STOP, version, "", 3, 2, (), now, 0.1, 0.2))
            assert name in await recorded()

        await asyncio.gather(*map(record, names))
        assert sorted(await recorded()) == sorted(names)
