"""The one way from a question to an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace

from mainspring_answers.domain import (
    Answer,
    Citation,
    ContextWish,
    Delta,
    FinishReason,
    Question,
    Route,
    Sampling,
    Scored,
    check_question,
    choose_route,
    model_of,
    with_context,
    with_prompt,
)
from mainspring_answers.guarding import Guarded, guarded
from mainspring_answers.ports import Chunk, Context, Engine, Ledger, Routes, Templates
from mainspring_svckit.clock import Clock
from mainspring_svckit.errors import MainspringError, Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import AnswerName
from mainspring_svckit.values import NO_UNIT, ServedUnit

MAX_IN_FLIGHT = 256
_TRIES = 3


@dataclass(frozen=True)
class _Plan:
    """A question with everything decided but the engine's words; `question` is what the guard let through."""

    question: Question
    answer: str
    route: Route
    unit: ServedUnit
    prompt: str
    sampling: Sampling
    citations: tuple[Citation, ...] = ()
    guard: Guarded | None = None

    @property
    def refused(self) -> bool:
        """Whether the guard let nothing through."""
        return self.guard is not None and self.guard.refusal is not None


class AnswerPath:
    """Answers questions; one per process, used by all calls of a door at once."""

    def __init__(
        self,
        *,
        engine: Engine,
        routes: Routes,
        templates: Templates,
        context: Context,
        ledger: Ledger,
        clock: Clock,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        self._engine, self._routes, self._templates = engine, routes, templates
        self._context, self._ledger, self._clock = context, ledger, clock
        self._free = max_in_flight
        self._background: set[asyncio.Task[None]] = set()

    async def generate(self, question: Question) -> Answer:
        """Answers in one piece, when the answer is recorded.

        Raises:
            InvalidInput: The question cannot be answered as it is.
            NotFound: The model is not served.
            Unavailable: The engine, the context or the ledger is away, or too many questions are being answered.
        """
        async with aclosing(self._events(question, stream=False)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise AssertionError("unreachable: the path ends with an answer or an error")

    async def stream(self, question: Question) -> AsyncGenerator[Delta | Answer]:
        """Answers as text comes, and ends with the whole answer when it is recorded; closing it stops the generation.

        Raises:
            MainspringError: As `generate`; after text was sent the answer is cut short by it.
        """
        async with aclosing(self._events(question, stream=True)) as events:
            async for event in events:
                yield event

    async def score(self, question: Question, text: str) -> Scored:
        """How probable a given text is as the answer, token by token. Nothing was answered, so nothing is recorded.

        A question that the release's guard refuses never gets that far, and no token has a probability then.

        Raises:
            MainspringError: As `generate`.
        """
        with self._admitted(question):
            plan = await self._plan(question)
            if plan.refused:
                return Scored((), 0)
            return await self._engine.score(plan.route.triton_model, plan.prompt, text)

    async def _events(self, question: Question, *, stream: bool) -> AsyncGenerator[Delta | Answer]:
        with self._admitted(question):
            async with aclosing(self._answer(question, stream=stream)) as events:
                async for event in events:
                    yield event

    @contextmanager
    def _admitted(self, question: Question) -> Iterator[None]:
        """Holds a place for a question that can be answered."""
        check_question(question)
        if self._free <= 0:
            raise Unavailable("OVERLOADED", "too many questions are being answered; try again in a moment")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def _answer(self, question: Question, *, stream: bool) -> AsyncGenerator[Delta | Answer]:
        started, arrived = time.monotonic(), self._clock.now()
        plan = await self._plan(question)
        question, guard = plan.question, plan.guard
        text, first_token_s, last = "", 0.0, Chunk("")
        blank = Answer(
            name=plan.answer,
            text="",
            finish_reason=FinishReason.ERROR,
            model_version=plan.route.model_version,
            release=plan.route.release,
            input_tokens=0,
            output_tokens=0,
            citations=plan.citations,
            create_time=arrived,
            first_token_latency_s=0.0,
            latency_s=0.0,
            prompt_version=plan.unit.prompt_version if question.messages else "",
            guard_policy_version=guard.policy if guard is not None else "",
        )
        ended = FinishReason.CANCELLED
        source = self._chunks(plan, stream=stream) if guard is None else self._guarded(plan, guard, stream=stream)
        try:
            async with aclosing(source) as chunks:
                async for chunk in chunks:
                    first_token_s = first_token_s or time.monotonic() - started
                    text += chunk.text
                    last = chunk
                    if chunk.text and stream:
                        yield Delta(chunk.text, plan.answer)
            if last.finish_reason is None:
                raise Unavailable("TRITON_UNAVAILABLE", "the engine broke off the answer")
            ended = last.finish_reason
        except MainspringError:
            ended = FinishReason.ERROR
            raise
        finally:
            answer = replace(
                blank,
                text=text,
                finish_reason=ended,
                input_tokens=last.input_tokens,
                output_tokens=last.output_tokens,
                first_token_latency_s=first_token_s,
                latency_s=time.monotonic() - started,
                first_token_logprobs=last.first_token_logprobs,
                guard_rules=guard.fired if guard is not None else (),
            )
            if guard is not None:
                guard.done()
            if ended in {FinishReason.ERROR, FinishReason.CANCELLED}:
                # Worth a record, since roll-outs count errors; but nobody waits for it.
                self._record_later(question, answer)
        await self._ledger.record(question, answer)
        yield answer

    def _record_later(self, question: Question, answer: Answer) -> None:
        async def record() -> None:
            with suppress(MainspringError):
                await self._ledger.record(question, answer)

        task = asyncio.create_task(record(), name="record of a failed answer")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _plan(self, question: Question) -> _Plan:
        answer = str(AnswerName(question.project, new_id()))
        route = self._route(question, answer)
        unit = _unit_of(question, route)
        sampling = question.sampling.under(unit)
        guard = await guarded(unit.guard, question) if unit.guard is not None else None
        if guard is not None:
            question = guard.question
        if not question.messages:
            return _Plan(question, answer, route, unit, question.raw_prompt, sampling, guard=guard)
        messages, citations = question.messages, tuple[Citation, ...]()
        wish = question.context or (ContextWish(unit.collection) if unit.collection else None)
        if wish is not None:
            passages = await self._context.search(wish.collection, messages[-1].content, wish.top_k)
            messages, citations = with_context(messages, passages)
        prompt = self._templates.render(route, with_prompt(unit.prompt, messages))
        return _Plan(question, answer, route, unit, prompt, sampling, citations, guard)

    def _route(self, question: Question, answer: str) -> Route:
        table = self._routes.table(model_of(question.model))
        return choose_route(table, question.model, question.session or answer)

    async def _guarded(self, plan: _Plan, guard: Guarded, *, stream: bool) -> AsyncGenerator[Chunk]:
        """What the guard lets through of the engine's words. An engine whose answer it ends is stopped."""
        if guard.refusal is not None:
            yield Chunk(guard.refusal, FinishReason.CONTENT_FILTER)
            return
        async with aclosing(self._chunks(plan, stream=stream)) as chunks:
            async for chunk in chunks:
                last = chunk.finish_reason is not None
                text = guard.feed(chunk.text, last=last)
                if guard.refused:
                    # The first token, too, may be of what must not leave.
                    yield replace(chunk, text=text, finish_reason=FinishReason.CONTENT_FILTER, first_token_logprobs=())
                    return
                if text or last:
                    yield replace(chunk, text=text)

    async def _chunks(self, plan: _Plan, *, stream: bool) -> AsyncGenerator[Chunk]:
        """The engine's words. A model that left memory between the look at the table and the call is asked for anew."""
        question, route = plan.question, plan.route
        for attempt in range(_TRIES):
            sent = False
            try:
                chunks = self._engine.generate(
                    route.triton_model,
                    plan.prompt,
                    plan.sampling,
                    stream=stream,
                    top_logprobs=question.top_logprobs,
                )
                async with aclosing(chunks) as open_chunks:
                    async for chunk in open_chunks:
                        sent = True
                        yield chunk
            except Unavailable as err:
                fresh = self._route(question, plan.answer)
                # The prompt was made for this version and release; others may want another.
                moved = fresh.triton_model != route.triton_model and fresh.chat_template == route.chat_template
                same = _unit_of(question, fresh) == plan.unit
                if sent or err.reason != "MODEL_NOT_READY" or not (moved and same) or attempt == _TRIES - 1:
                    raise
                route = fresh
            else:
                return


def _unit_of(question: Question, route: Route) -> ServedUnit:
    """What goes with the version: the release's word where the model was named, the caller's where the version was.

    Who names a version does not slip by its release's guard; only who says what it should be asked with measures it.
    """
    if question.model != route.model_version:
        return route.unit
    if question.unit is not None:
        return question.unit
    return ServedUnit(guard=route.unit.guard) if route.unit.guard is not None else NO_UNIT
