"""The gRPC door on the answer path, the outside replaced by fakes."""

from typing import Any

import pytest

from mainspring.common.v1 import chat_pb2, unit_pb2
from mainspring.inference.v1 import answer_pb2
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring_answers.domain import Route, RoutingTable
from mainspring_answers.path import AnswerPath
from mainspring_answers.templates import JinjaTemplates
from mainspring_inference.transport.grpc import InferenceServicer
from mainspring_svckit.auth import Principal, current_principal
from mainspring_svckit.errors import InvalidInput, NotFound
from mainspring_testkit.answer_path import FakeContext, FakeEngine, FakeLedger, FakeRoutes
from mainspring_testkit.fakes import FakeClock

RELEASER = Principal("ann", frozenset({"p"}), frozenset({"releaser"}))
VERSION = "projects/p/models/m/versions/1"
TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
MESSAGES = [
    chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_USER, content="why?"),
    chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_ASSISTANT, content="because"),
    chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_USER, content="and then?"),
]


class Door:
    """A door on one version, called as a releaser."""

    def __init__(self) -> None:
        self.engine, self.context, self.ledger = FakeEngine(), FakeContext(), FakeLedger()
        route = Route(VERSION, "", 100, "first", chat_template=TEMPLATE)
        routes: Any = FakeRoutes(RoutingTable("projects/p/models/m", 1, (route,)))
        path = AnswerPath(
            engine=self.engine,
            routes=routes,
            templates=JinjaTemplates(),
            context=self.context,
            ledger=self.ledger,
            clock=FakeClock(),
        )
        self._servicer = InferenceServicer(path, routes)

    async def score(self, **fields: Any) -> pb.ScoreTextResponse:
        current_principal.set(RELEASER)
        request = pb.ScoreTextRequest(parent="projects/p", model=VERSION, text="said words", **fields)
        return await self._servicer.ScoreText(request, None)

    async def answer(self, **fields: Any) -> pb.GenerateAnswerResponse:
        current_principal.set(RELEASER)
        request = pb.GenerateAnswerRequest(parent="projects/p", model=VERSION, **fields)
        return await self._servicer.GenerateAnswer(request, None)


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.mark.parametrize(("top_k", "passages"), [(0, 3), (1, 1), (2, 2)])
async def test_a_text_is_scored_after_the_same_words_as_it_would_be_answered_after(
    door: Door, top_k: int, passages: int
) -> None:
    context = answer_pb2.ContextRequest(collection="projects/p/collections/c", top_k=top_k)
    unit = unit_pb2.ServedUnit(collection="projects/p/collections/of-the-unit")
    scored = await door.score(messages=MESSAGES, context=context, unit=unit)
    answer = (await door.answer(messages=MESSAGES, context=context, unit=unit)).answer
    before, asked = door.engine.prompts
    assert before == asked
    assert "user:why?;assistant:because;" in before
    assert f"passage {passages} of projects/p/collections/c" in before
    assert f"passage {passages + 1} of" not in before
    assert len(answer.citations) == passages
    assert len(scored.tokens) == 2
    assert len(door.ledger.records) == 1, "a text that is scored was not answered"


async def test_without_passages_of_its_own_a_text_comes_after_those_of_the_unit_or_none(door: Door) -> None:
    await door.score(messages=MESSAGES, unit=unit_pb2.ServedUnit(collection="projects/p/collections/u"))
    await door.score(messages=MESSAGES)
    with_unit, plain = door.engine.prompts
    assert "passage 3 of projects/p/collections/u" in with_unit
    assert plain == "user:why?;assistant:because;user:and then?;"


async def test_b1_passages_that_cannot_be_put_before_a_text_are_refused(door: Door) -> None:
    context = answer_pb2.ContextRequest(collection="projects/p/collections/c")
    with pytest.raises(InvalidInput) as caught:
        await door.score(raw_prompt="as it stands", context=context)
    assert caught.value.reason == "CONTEXT_NEEDS_MESSAGES"
    door.context.missing = {context.collection}
    with pytest.raises(NotFound):
        await door.score(messages=MESSAGES, context=context)
    assert door.engine.asked == []
