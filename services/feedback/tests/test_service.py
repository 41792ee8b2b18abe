"""Feedback as its users meet it: gRPC, events in and out, two replicas, real NATS and Postgres."""

import asyncio
import json
import math
from contextlib import suppress
from typing import Any

import pytest

from mainspring.common.v1.chat_pb2 import ChatMessage
from mainspring.events.v1.feedback_events_pb2 import FeedbackItemRecorded, PreferencesReady
from mainspring.events.v1.inference_events_pb2 import ResponseCompleted
from mainspring.feedback.v1 import feedback_pb2
from mainspring.feedback.v1 import feedback_service_pb2 as pb
from mainspring.feedback.v1 import feedback_service_pb2_grpc as pb_grpc
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.topology import DLQ_STREAM
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import ConcurrentChange, InvalidInput, NotFound, Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.waiting import eventually

MODEL = "projects/p/models/m"
TRIGGER = "projects/p/retrainingTriggers/t"


class Feedback:
    """Two replicas and somebody who calls them."""

    def __init__(
        self, surroundings: Surroundings, replicas: list[ServiceProcess], artifacts: ArtifactStore, bus: Bus
    ) -> None:
        self.replicas, self.artifacts, self.bus = replicas, artifacts, bus
        self.caller = surroundings.caller("admin")
        self.turn = 0
        self.rejected: dict[str, str | None] = {}

    async def call(self, method: str, **fields: Any) -> Any:
        self.turn += 1
        replica = self.replicas[self.turn % len(self.replicas)]
        request = getattr(pb, f"{method}Request")(**fields)
        stub: Any = pb_grpc.FeedbackServiceStub(replica.channel)
        return await self.caller.unary(getattr(stub, method), request, getattr(pb, f"{method}Response"))

    async def answered(self, prompt: str = "q", text: str = "said", *, event_id: str | None = None) -> str:
        """Tells of an answer; returns its name."""
        name = f"projects/p/answers/{new_id()}"
        event = ResponseCompleted(
            answer=name,
            model_version=f"{MODEL}/versions/1",
            release=f"{MODEL}/releases/1",
            messages=[ChatMessage(role=ChatMessage.ROLE_USER, content=prompt)],
            text=text,
            finish_reason="STOP",
        )
        await publish(self.bus, event, event_id=event_id)
        return name

    async def judge(self, answer: str, *, request_id: str = "", **judgement: Any) -> feedback_pb2.FeedbackItem:
        """Judges an answer as a client does: tries again while it is not known yet, under one request id."""
        item = feedback_pb2.FeedbackItem(answer=answer, **judgement)
        wish = {"parent": "projects/p", "feedback_item": item, "request_id": request_id or new_id()}

        async def known() -> Any:
            try:
                return await self.call("CreateFeedbackItem", **wish)
            except Unavailable as err:
                if err.reason != "ANSWER_NOT_KNOWN_YET":
                    raise
                return None

        return (await eventually(known, within_s=20, what="the answer to be known")).feedback_item

    async def put_trigger(self, min_items: int, **fields: Any) -> feedback_pb2.RetrainingTrigger:
        trigger = feedback_pb2.RetrainingTrigger(
            name=TRIGGER, model=MODEL, ingestion_recipe="projects/p/ingestionRecipes/r", min_items=min_items, **fields
        )
        answer = await self.call("UpdateRetrainingTrigger", retraining_trigger=trigger, allow_missing=True)
        return answer.retraining_trigger

    async def trigger(self) -> feedback_pb2.RetrainingTrigger:
        return (await self.call("GetRetrainingTrigger", name=TRIGGER)).retraining_trigger

    async def taught(self, event: PreferencesReady) -> dict[str, str]:
        """What the examples of an event teach: last answer by prompt."""
        data = await self.artifacts.read("p", artifact_from_proto(event.examples))
        lines = [json.loads(line) for line in data.decode().splitlines()]
        chats = [line["messages"] for line in lines]
        assert len(chats) == event.item_count
        assert all([message["role"] for message in chat] == ["user", "assistant"] for chat in chats)
        self.rejected = {chat[0]["content"]: line.get("rejected") for chat, line in zip(chats, lines, strict=True)}
        return {chat[0]["content"]: chat[1]["content"] for chat in chats}


@pytest.fixture
async def feedback(surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, bus: Bus) -> Feedback:
    database = await postgres.new_database("mainspring_feedback")
    replicas = [surroundings.replica("mainspring_feedback.main", database, work_lease_s=3) for _ in range(2)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    return Feedback(surroundings, replicas, ArtifactStore(artifact_url), bus)


async def test_feedback_turns_the_loop(feedback: Feedback, event_tap: EventTap) -> None:
    await feedback.put_trigger(3)
    answers = [await feedback.answered(f"q{number}", f"a{number}") for number in range(3)]
    other = await feedback.answered("q2", "worse")
    thumb = await feedback.judge(answers[0], thumb=True, comment="nice")
    assert (thumb.author, thumb.model_version, thumb.thumb, thumb.comment) == (
        "tester",
        f"{MODEL}/versions/1",
        True,
        "nice",
    )
    await feedback.judge(answers[0], correction="first")
    await feedback.judge(answers[0], correction="second")
    await feedback.judge(answers[1], correction="better\nwith lines")
    assert (await feedback.trigger()).pending_items == 2
    preferred = await feedback.judge(answers[2], preference=feedback_pb2.Preference(rejected_answer=other))
    (event,) = await event_tap.wait_for(PreferencesReady)
    assert await feedback.taught(event) == {"q0": "second", "q1": "better\nwith lines", "q2": "a2"}
    assert feedback.rejected == {"q0": "a0", "q1": "a1", "q2": "worse"}
    assert (event.model, event.retraining_trigger) == (MODEL, TRIGGER)
    ready = [heard for heard in event_tap.events if isinstance(heard.data, PreferencesReady)]
    assert ready[0].cycle
    trigger = await feedback.trigger()
    assert trigger.pending_items == 0
    assert trigger.HasField("last_fire_time")
    recorded = await event_tap.wait_for(FeedbackItemRecorded, count=5)
    assert [item.kind for item in recorded] == ["THUMB", "CORRECTION", "CORRECTION", "CORRECTION", "PREFERENCE"]
    assert "better" not in str(recorded)
    found = await feedback.call("GetFeedbackItem", name=preferred.name)
    assert found.feedback_item == preferred
    listed = await feedback.call("ListFeedbackItems", parent="projects/p", page_size=2)
    assert listed.feedback_items[0] == preferred
    of_one = await feedback.call("ListFeedbackItems", parent="projects/p", answer=answers[0])
    assert [item.correction for item in of_one.feedback_items] == ["second", "first", ""]
    with pytest.raises(InvalidInput):
        await feedback.call(
            "ListFeedbackItems", parent="projects/p", answer=answers[0], page_token=listed.next_page_token
        )


async def test_i2_lessons_given_at_once_are_each_taken_once(feedback: Feedback, event_tap: EventTap) -> None:
    await feedback.put_trigger(5)
    answers = [await feedback.answered(f"q{number}") for number in range(20)]
    await asyncio.gather(
        *(feedback.judge(answer, correction=f"c{number}") for number, answer in enumerate(answers)),
        *(feedback.judge(answer, score=0.5) for answer in answers),
    )
    events = await event_tap.wait_for(PreferencesReady, count=4)
    taught = [await feedback.taught(event) for event in events]
    assert [len(lessons) for lessons in taught] == [5, 5, 5, 5]
    assert {prompt: text for lessons in taught for prompt, text in lessons.items()} == {
        f"q{number}": f"c{number}" for number in range(20)
    }
    assert (await feedback.trigger()).pending_items == 0
    cycles = {heard.cycle for heard in event_tap.events if isinstance(heard.data, PreferencesReady)}
    assert len(cycles) == 4


@pytest.mark.parametrize(
    "point",
    [
        "feedback-item:before-commit",
        "examples:after-claim",
        "artifacts:after-put",
        "examples:before-commit",
        "outbox:before-publish",
        "outbox:after-publish",
    ],
)
async def test_f1_killed_at_any_point_the_loop_turns_once(feedback: Feedback, event_tap: EventTap, point: str) -> None:
    await feedback.put_trigger(1)
    answer = await feedback.answered()
    with pytest.raises(InvalidInput, match="itself"):  # It is known now, and nothing is in the outbox.
        await feedback.judge(answer, preference=feedback_pb2.Preference(rejected_answer=answer))
    first, second = feedback.replicas
    await second.stop()
    await first.kill()
    await first.start(ready=False, MAINSPRING_CRASH_AT=point)
    feedback.replicas = [first]
    await eventually(first.is_ready, within_s=30)
    request_id = new_id()
    with suppress(Unavailable):  # The call may die with the replica.
        await feedback.judge(answer, correction="c", request_id=request_id)
    assert await first.wait() == 137
    await second.start()
    feedback.replicas = [second]
    await feedback.judge(answer, correction="c", request_id=request_id)
    (event,) = await event_tap.wait_for(PreferencesReady, within_s=45)
    assert await feedback.taught(event) == {"q": "c"}
    assert len((await feedback.call("ListFeedbackItems", parent="projects/p")).feedback_items) == 1
    assert (await feedback.trigger()).pending_items == 0
    assert len(await event_tap.wait_for(FeedbackItemRecorded)) == 1


async def test_f12_answers_told_twice_or_wrongly_harm_nobody(feedback: Feedback) -> None:
    for _ in range(3):
        answer = await feedback.answered(event_id="same")
    foreign = ResponseCompleted(answer=f"projects/p/answers/{new_id()}", model_version="projects/q/models/m/versions/1")
    await publish(feedback.bus, foreign)
    await publish(feedback.bus, ResponseCompleted(answer=f"projects/p/answers/{new_id()}"))
    answer = await feedback.answered("with \0", "and \0")
    assert (await feedback.judge(answer, thumb=False)).answer == answer

    async def both_are_dead_letters() -> bool:
        return (await feedback.bus.stream(DLQ_STREAM)).last == 2

    await eventually(both_are_dead_letters)


async def test_unknown_answers_are_told_apart_by_age(feedback: Feedback) -> None:
    young = feedback_pb2.FeedbackItem(answer=f"projects/p/answers/{new_id()}", thumb=True)
    with pytest.raises(Unavailable) as caught:
        await feedback.call("CreateFeedbackItem", parent="projects/p", feedback_item=young)
    assert (caught.value.reason, caught.value.retry_after_s) == ("ANSWER_NOT_KNOWN_YET", 0.5)
    old = feedback_pb2.FeedbackItem(answer="projects/p/answers/019b0000-0000-7000-8000-000000000000", thumb=True)
    with pytest.raises(NotFound):
        await feedback.call("CreateFeedbackItem", parent="projects/p", feedback_item=old)


async def test_requests_are_checked_and_repeats_are_one(feedback: Feedback) -> None:
    answer, other = await feedback.answered(), await feedback.answered("another prompt")
    await feedback.judge(other, thumb=True)
    request_id = new_id()
    both = [await feedback.judge(answer, score=0.25, request_id=request_id) for _ in range(2)]
    assert both[0] == both[1]
    wrong: list[dict[str, Any]] = [
        {},
        {"score": 1.5},
        {"score": math.nan},
        {"correction": " \n"},
        {"correction": "a\0b"},
        {"thumb": True, "comment": "\0"},
        {"preference": feedback_pb2.Preference(rejected_answer=answer)},
        {"preference": feedback_pb2.Preference(rejected_answer=other)},
        {"preference": feedback_pb2.Preference(rejected_answer="projects/q/answers/x")},
    ]
    for judgement in wrong:
        with pytest.raises(InvalidInput):
            await feedback.judge(answer, **judgement)
    trigger = await feedback.put_trigger(2)
    assert (await feedback.put_trigger(3, etag=trigger.etag)).min_items == 3
    with pytest.raises(ConcurrentChange):
        await feedback.put_trigger(4, etag=trigger.etag)
    listed = await feedback.call("ListRetrainingTriggers", parent="projects/p")
    assert [found.min_items for found in listed.retraining_triggers] == [3]


async def test_judged_answers_are_listed_and_forgotten_on_demand(feedback: Feedback) -> None:
    right = await feedback.answered("who?", "ask Ada@Example.org")
    wrong = await feedback.answered("why?", "because")
    await feedback.judge(right, thumb=True)
    await feedback.judge(wrong, correction="for a reason")
    listed = await feedback.call("ListJudgedAnswers", parent="projects/p", model=MODEL)
    assert [judged.answer for judged in listed.judged_answers] == [wrong, right]
    corrected, thumb = listed.judged_answers
    assert [(m.role, m.content) for m in corrected.messages] == [
        (ChatMessage.ROLE_USER, "why?"),
        (ChatMessage.ROLE_ASSISTANT, "for a reason"),
    ]
    assert (corrected.rejected, corrected.HasField("desirable"), thumb.desirable) == ("because", False, True)
    assert not thumb.HasField("rejected")
    first = await feedback.call("ListJudgedAnswers", parent="projects/p", page_size=1)
    rest = await feedback.call("ListJudgedAnswers", parent="projects/p", page_size=1, page_token=first.next_page_token)
    assert [*first.judged_answers, *rest.judged_answers] == list(listed.judged_answers)
    erased = await feedback.call("EraseFeedbackContent", parent="projects/p", text="ada@example.org")
    assert (erased.erased_answers, erased.erased_feedback_items) == (1, 0)
    left = await feedback.call("ListJudgedAnswers", parent="projects/p")
    assert [judged.answer for judged in left.judged_answers] == [wrong]
