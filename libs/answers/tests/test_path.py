"""The path over fakes: what is sent, what is recorded, what is cancelled."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from mainspring_answers.domain import (
    Answer,
    ContextWish,
    Delta,
    FinishReason,
    Question,
    Route,
    RoutingTable,
    Sampling,
    SamplingWish,
    Scored,
)
from mainspring_answers.path import AnswerPath
from mainspring_answers.ports import Chunk
from mainspring_answers.templates import JinjaTemplates
from mainspring_guards.guard import Guard, compiled
from mainspring_svckit.errors import InvalidInput, NotFound, PreconditionFailed, Unavailable
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
from mainspring_testkit.answer_path import LAST, FakeContext, FakeEngine, FakeLedger, FakeRoutes
from mainspring_testkit.fakes import FakeClock
from mainspring_testkit.waiting import eventually

MODEL = "projects/p/models/m"
TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
ROUTE = Route(f"{MODEL}/versions/1", f"{MODEL}/releases/1", 100, "first", chat_template=TEMPLATE)
QUESTION = Question("p", MODEL, "ann", (Message("user", "hi"),))


class World:
    def __init__(self) -> None:
        self.engine, self.routes, self.ledger = FakeEngine(), FakeRoutes(RoutingTable(MODEL, 1, (ROUTE,))), FakeLedger()
        self.path = self.make()

    def make(self, max_in_flight: int = 8) -> AnswerPath:
        return AnswerPath(
            engine=self.engine,
            routes=self.routes,
            templates=JinjaTemplates(),
            context=FakeContext(),
            ledger=self.ledger,
            clock=FakeClock(),
            max_in_flight=max_in_flight,
        )

    async def stream(self, question: Question = QUESTION) -> list[Delta | Answer]:
        return [event async for event in self.path.stream(question)]

    async def recorded(self, reason: FinishReason) -> Answer:
        async def found() -> Answer | None:
            return next((answer for _, answer in self.ledger.records if answer.finish_reason is reason), None)

        answer = await eventually(found, what=f"a record of {reason}")
        assert answer is not None
        return answer


@pytest.fixture
def world() -> World:
    return World()


async def test_a_question_is_answered_and_recorded(world: World) -> None:
    answer = await world.path.generate(replace(QUESTION, top_logprobs=3))
    assert (answer.text, answer.finish_reason) == ("Hello", FinishReason.STOP)
    assert (answer.model_version, answer.release) == (ROUTE.model_version, ROUTE.release)
    assert (answer.input_tokens, answer.output_tokens) == (7, 2)
    assert len(answer.first_token_logprobs) == 3
    assert answer.name.startswith("projects/p/answers/")
    assert world.engine.asked == [("first", "user:hi;", Sampling(), False, 3)]
    assert [(question.caller, kept) for question, kept in world.ledger.records] == [("ann", answer)]


async def test_i12_a_stream_ends_with_the_whole_answer_after_its_record(world: World) -> None:
    events = await world.stream()
    assert isinstance(events[-1], Answer)
    assert events[:-1] == [Delta("Hel", events[-1].name), Delta("lo", events[-1].name)]
    assert events[-1].text == "Hello"
    assert world.ledger.records[0][1] == events[-1]


async def test_nothing_is_handed_out_without_a_record(world: World) -> None:
    world.ledger.failure = Unavailable("LEDGER_UNAVAILABLE", "away")
    with pytest.raises(Unavailable, match="away"):
        await world.path.generate(QUESTION)
    seen: list[Delta | Answer] = []
    with pytest.raises(Unavailable, match="away"):
        async for event in world.path.stream(QUESTION):
            seen.append(event)
    assert not any(isinstance(event, Answer) for event in seen)


async def test_i12_an_answer_that_breaks_off_is_an_error_and_is_recorded_as_one(world: World) -> None:
    world.engine.script = world.engine.says("Hel", failure=Unavailable("TRITON_UNAVAILABLE", "died"))
    seen: list[Delta | Answer] = []
    with pytest.raises(Unavailable, match="died"):
        async for event in world.path.stream(QUESTION):
            seen.append(event)
    assert [event.text for event in seen] == ["Hel"]
    assert (await world.recorded(FinishReason.ERROR)).text == "Hel"
    world.engine.script = world.engine.says("Hel", end=False)
    with pytest.raises(Unavailable, match="broke off"):
        await world.path.generate(QUESTION)


async def test_f18_a_caller_that_leaves_stops_the_engine(world: World) -> None:
    async def endless(_: str) -> AsyncGenerator[Chunk]:
        yield Chunk("Hel")
        await asyncio.Event().wait()

    world.engine.script = endless
    async with aclosing(world.path.stream(QUESTION)) as events:
        assert (await anext(events)).text == "Hel"
    assert world.engine.closed == 1
    assert (await world.recorded(FinishReason.CANCELLED)).text == "Hel"
    task = asyncio.create_task(world.path.generate(QUESTION))
    await eventually(lambda: asyncio.sleep(0, len(world.engine.asked) == 2))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.engine.closed == 2


async def test_a_model_that_left_memory_is_asked_for_anew(world: World) -> None:
    second = replace(ROUTE, triton_model="second", model_version=f"{MODEL}/versions/2")

    async def script(model: str) -> AsyncGenerator[Chunk]:
        if model == "first":
            await world.routes.publish(RoutingTable(MODEL, 2, (second,)))
            raise Unavailable("MODEL_NOT_READY", "gone")
        yield Chunk("new")
        yield LAST

    world.engine.script = script
    answer = await world.path.generate(QUESTION)
    assert answer.text == "new"
    assert [asked[0] for asked in world.engine.asked] == ["first", "second"]


async def test_a_model_that_is_gone_for_good_is_unavailable(world: World) -> None:
    world.engine.gone = {"first"}
    with pytest.raises(Unavailable, match="gone"):
        await world.path.generate(QUESTION)
    assert len(world.engine.asked) == 1


async def test_context_is_cited(world: World) -> None:
    wish = ContextWish("projects/p/collections/c", 2)
    answer = await world.path.generate(replace(QUESTION, context=wish))
    assert [citation.number for citation in answer.citations] == [1, 2]
    assert "[2] Title\npassage 2 of projects/p/collections/c" in world.engine.asked[0][1]
    assert world.ledger.records[0][0].messages == QUESTION.messages  # The record holds what the person asked.


async def test_raw_prompts_go_as_they_are(world: World) -> None:
    await world.path.generate(Question("p", MODEL, raw_prompt="x <|im_end|>"))
    assert world.engine.asked[0][1] == "x <|im_end|>"


async def test_what_is_not_served_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.path.generate(replace(QUESTION, model="projects/p/models/other"))
    with pytest.raises(InvalidInput):
        await world.path.generate(replace(QUESTION, messages=(Message("assistant", "x"),)))
    assert world.ledger.records == []


async def test_i10_load_is_shed_before_it_piles_up(world: World) -> None:
    gate = asyncio.Event()

    async def slow(_: str) -> AsyncGenerator[Chunk]:
        await gate.wait()
        yield LAST

    world.engine.script = slow
    world.path = world.make(max_in_flight=2)
    running = [asyncio.create_task(world.path.generate(QUESTION)) for _ in range(2)]
    await eventually(lambda: asyncio.sleep(0, len(world.engine.asked) == 2))
    with pytest.raises(Unavailable) as caught:
        await world.path.generate(QUESTION)
    assert caught.value.reason == "OVERLOADED"
    gate.set()
    await asyncio.gather(*running)
    assert (await world.path.generate(QUESTION)).finish_reason is FinishReason.STOP


UNIT = ServedUnit(
    "projects/p/prompts/q/versions/2", (Message("system", "Be brief."), Message("user", "a")), "", 0.25, 100
)


def released(world: World, unit: ServedUnit) -> None:
    world.routes.known[MODEL] = RoutingTable(MODEL, 2, (replace(ROUTE, unit=unit),))


async def test_what_a_release_names_goes_into_the_answer_and_its_record(world: World) -> None:
    released(world, UNIT)
    answer = await world.path.generate(QUESTION)
    assert world.engine.asked[0].prompt == "system:Be brief.;user:a;user:hi;"
    assert world.engine.asked[0].sampling == Sampling(100, 0.25)
    assert answer.prompt_version == UNIT.prompt_version
    assert [(question.messages, kept) for question, kept in world.ledger.records] == [(QUESTION.messages, answer)]


async def test_what_the_caller_says_wins_as_far_as_the_release_lets_it(world: World) -> None:
    released(world, UNIT)
    for wish in (SamplingWish(7, 0.0, 0.5, 3, ("X",)), SamplingWish(101, 0.0, 0.5, 3, ("X",))):
        await world.path.generate(replace(QUESTION, sampling=wish))
    asked = [each.sampling for each in world.engine.asked]
    assert asked == [Sampling(7, 0.0, 0.5, 3, ("X",)), Sampling(100, 0.0, 0.5, 3, ("X",))]


async def test_a_releases_collection_gives_context_to_who_names_none(world: World) -> None:
    released(world, replace(UNIT, collection="projects/p/collections/c"))
    answer = await world.path.generate(QUESTION)
    assert [c.passage.text for c in answer.citations] == [f"passage {n} of projects/p/collections/c" for n in (1, 2, 3)]
    own = replace(QUESTION, context=ContextWish("projects/p/collections/mine", 1))
    (citation,) = (await world.path.generate(own)).citations
    assert citation.passage.text == "passage 1 of projects/p/collections/mine"


async def test_a_version_is_asked_with_what_the_caller_says_and_not_what_its_release_does(world: World) -> None:
    released(world, UNIT)
    by_version = replace(QUESTION, model=ROUTE.model_version)
    bare = await world.path.generate(by_version)
    candidate = await world.path.generate(replace(by_version, unit=replace(UNIT, prompt_version="x")))
    assert world.engine.prompts == ["user:hi;", "system:Be brief.;user:a;user:hi;"]
    assert (bare.prompt_version, candidate.prompt_version) == ("", "x")


async def test_text_that_is_continued_as_it_stands_gets_no_prompt(world: World) -> None:
    released(world, UNIT)
    answer = await world.path.generate(replace(QUESTION, messages=(), raw_prompt="Once"))
    assert (world.engine.prompts, answer.prompt_version) == (["Once"], "")
    assert world.engine.asked[0].sampling == Sampling(100, 0.25)


async def test_f16_a_question_does_not_move_to_a_release_with_another_prompt(world: World) -> None:
    released(world, UNIT)
    world.engine.gone.add("first")
    second = replace(ROUTE, triton_model="second", release=f"{MODEL}/releases/2")
    asked = world.engine.generate

    def move(*given: Any, **named: Any) -> Any:
        world.routes.known[MODEL] = RoutingTable(MODEL, 3, (second,))
        return asked(*given, **named)

    world.engine.generate = move  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="gone"):
        await world.path.generate(QUESTION)


RULES = (
    GuardRule("secret", GuardDirection.BOTH, GuardAction.REFUSE, "I cannot talk of that.", texts=("zephyr",)),
    GuardRule("own", GuardDirection.BOTH, GuardAction.MASK, personal_data=(PersonalDataKind.MAIL_ADDRESS,)),
    GuardRule("seen", GuardDirection.BOTH, GuardAction.RECORD, texts=("hello",)),
)
GUARD = ServedGuard("projects/p/guardPolicies/g/versions/1", rules_sha256(RULES), RULES)


def ask(text: str, **fields: Any) -> Question:
    return replace(QUESTION, messages=(Message("user", text),), **fields)


async def test_b11_a_refused_question_reaches_neither_engine_nor_context_nor_record(world: World) -> None:
    released(world, ServedUnit(collection="projects/p/collections/c", guard=GUARD))
    asked = ask("What is Z\u200bephyr?")
    whole, streamed = await world.path.generate(asked), await world.stream(asked)
    assert world.engine.asked == []
    for answer in (whole, streamed[-1]):
        assert isinstance(answer, Answer)
        assert (answer.text, answer.finish_reason) == ("I cannot talk of that.", FinishReason.CONTENT_FILTER)
        assert (answer.guard_policy_version, answer.guard_rules) == (GUARD.guard_policy_version, ("secret",))
        assert (answer.citations, answer.input_tokens) == ((), 0)
    assert [event.text for event in streamed] == ["I cannot talk of that."] * 2
    assert [question.messages for question, _ in world.ledger.records] == [(), ()]
    assert await world.path.score(asked, "of all things") == Scored((), 0)


async def test_b11_what_is_masked_in_a_question_is_masked_for_engine_and_record(world: World) -> None:
    released(world, ServedUnit(guard=GUARD))
    answer = await world.path.generate(ask("hello, I am ann@mail.example.com"))
    assert world.engine.prompts == ["user:hello, I am [own];"]
    assert [question.messages[0].content for question, _ in world.ledger.records] == ["hello, I am [own]"]
    assert answer.guard_rules == ("seen", "own")
    await world.path.generate(replace(QUESTION, messages=(), raw_prompt="to a@b.co"))
    assert world.engine.prompts[-1] == "to [own]"


@pytest.mark.parametrize("cut", range(1, 27))
async def test_b11_no_denied_word_leaves_a_stream_across_the_borders_of_its_pieces(world: World, cut: int) -> None:
    released(world, ServedUnit(guard=GUARD))
    said = "Well, it is ze\u0301phyr. So be it."
    world.engine.script = world.engine.says(said[:cut], said[cut:])
    events = await world.stream()
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert "".join(event.text for event in events[:-1]) == answer.text == "Well, it is \n\nI cannot talk of that."
    assert (answer.finish_reason, answer.guard_rules) == (FinishReason.CONTENT_FILTER, ("secret",))
    assert (await world.path.generate(QUESTION)).text == answer.text, "in one piece it is the same"
    assert all(isinstance(event, Delta) and "z" not in event.text for event in events[:-1])


async def test_b11_a_stream_that_a_guard_ends_stops_the_engine(world: World) -> None:
    async def endless(_: str) -> AsyncGenerator[Chunk]:
        yield Chunk("zephyr ")
        await asyncio.Event().wait()

    released(world, ServedUnit(guard=GUARD))
    world.engine.script = endless
    assert [event.text for event in await world.stream()] == ["I cannot talk of that."] * 2
    assert world.engine.closed == 1


async def test_an_answer_without_rules_on_answers_is_not_held_back(world: World) -> None:
    asked_only = tuple(replace(rule, direction=GuardDirection.INPUT) for rule in RULES)
    released(world, ServedUnit(guard=ServedGuard(GUARD.guard_policy_version, rules_sha256(asked_only), asked_only)))
    world.engine.script = world.engine.says("a", "@", "b.co")
    assert [event.text for event in await world.stream()] == ["a", "@", "b.co", "a@b.co"]


async def test_f10_a_release_whose_guard_is_missing_or_not_the_released_one_is_not_answered_with(world: World) -> None:
    for guard in (replace(GUARD, rules=()), replace(GUARD, rules=RULES[1:]), replace(GUARD, guard_policy_version="")):
        released(world, ServedUnit(guard=guard))
        for asked in (QUESTION, ask("zephyr")):
            with pytest.raises(PreconditionFailed) as caught:
                await world.path.generate(asked)
            assert caught.value.reason == "GUARD_POLICY_BROKEN"
    assert (world.engine.asked, world.ledger.records) == ([], [])


async def test_b11_a_version_that_is_not_released_is_no_way_around_the_models_guard(world: World) -> None:
    candidate = replace(ROUTE, model_version=f"{MODEL}/versions/9", release="", percent=0, triton_model="candidate")
    main = replace(ROUTE, unit=replace(UNIT, guard=GUARD), release=f"{MODEL}/releases/1", percent=100)
    world.routes.known[MODEL] = RoutingTable(MODEL, 2, (candidate, main))
    world.engine.script = world.engine.says("Zephyr")
    named = replace(QUESTION, model=candidate.model_version)
    unsaid = await world.path.generate(named)
    assert (unsaid.text, unsaid.prompt_version) == ("I cannot talk of that.", "")
    assert (await world.path.generate(replace(named, unit=ServedUnit()))).text == "Zephyr"


async def test_b4_a_callers_own_rules_are_compiled_beside_the_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = list[int]()

    def compiling(served: ServedGuard) -> Guard:
        threads.append(threading.get_ident())
        return compiled(served)

    monkeypatch.setattr("mainspring_answers.guarding.compiled", compiling)
    own = replace(GUARD, guard_policy_version="projects/p/guardPolicies/own/versions/1")
    for _ in range(2):
        await world.path.generate(replace(QUESTION, model=ROUTE.model_version, unit=ServedUnit(guard=own)))
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


async def test_a_version_is_measured_with_the_guard_that_would_be_released(world: World) -> None:
    unit = ServedUnit(guard=GUARD)
    candidate = replace(QUESTION, model=ROUTE.model_version, unit=unit)
    world.engine.script = world.engine.says("Zephyr")
    assert (await world.path.generate(candidate)).finish_reason is FinishReason.CONTENT_FILTER
    released(world, replace(UNIT, guard=GUARD))
    assert (await world.path.generate(replace(candidate, unit=ServedUnit()))).text == "Zephyr"
    unsaid = await world.path.generate(replace(candidate, unit=None))
    assert (unsaid.text, unsaid.prompt_version) == ("I cannot talk of that.", ""), "nobody slips by who names a version"
    assert unit.sha256 not in {"", replace(unit, temperature=0.5).sha256, ServedUnit(temperature=0.5).sha256}
