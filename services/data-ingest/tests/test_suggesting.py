"""A model suggests labels before people label: the service is real, the model scripted."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import grpc
import pytest

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import annotation_pb2 as messages
from mainspring.inference.v1 import answer_pb2, inference_service_pb2, inference_service_pb2_grpc
from mainspring_client.cli import suggestions as cli
from mainspring_client.client import Mainspring
from mainspring_client.suggesting import Suggested, label_of, suggest
from mainspring_svckit.errors import InvalidInput, MainspringError

from .harness import DataIngest

QUEUE = "projects/p/annotationQueues/q"
MODEL = "projects/p/models/m"
SURE = {"good": 0.9, "bad": 0.6}
CHOICE = messages.LabelSchema(choice=messages.LabelSchema.Choice(choices=["good", "bad"]))
SEVERAL = messages.LabelSchema(choice=messages.LabelSchema.Choice(choices=["red, dark", "blue"], several=True))
RATING = messages.LabelSchema(rating=messages.LabelSchema.Rating(worst=1, best=5))
PREFERENCE = messages.LabelSchema(preference=messages.LabelSchema.Preference())
TEXT = messages.LabelSchema(text=messages.LabelSchema.Text())


class Judge(inference_service_pb2_grpc.InferenceServiceServicer):
    """Says of an item what the item ends with, and how sure it is of each token."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.now = self.most = 0
        self.away = False
        self.several = asyncio.Event()
        """Set once two were asked at a time, or if they need not be; until then nobody is answered."""
        self.several.set()

    async def GenerateAnswer(self, request: Any, context: Any) -> inference_service_pb2.GenerateAnswerResponse:
        if self.away:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "its release was revoked")
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now > 1:
            self.several.set()
        await self.several.wait()
        self.now -= 1
        assert (request.model, request.sampling.temperature) == (MODEL, 0)
        prompt = request.messages[-1].content
        self.prompts.append(prompt)
        item = prompt.partition("user: ")[2].partition("\n\nAnswer with")[0]
        answer = answer_pb2.Answer(text=item.rpartition(" ")[2], model_version=f"{MODEL}/versions/3")
        return inference_service_pb2.GenerateAnswerResponse(answer=answer)

    async def ScoreText(self, request: Any, context: Any) -> inference_service_pb2.ScoreTextResponse:
        assert request.messages[-1].content in self.prompts
        logprob = math.log(SURE[request.text.lower().strip(".")]) / 2
        token = answer_pb2.TokenProbability(token_id=1, logprob=logprob)
        return inference_service_pb2.ScoreTextResponse(tokens=[token, token])

    def StreamAnswer(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListServedModels(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
async def judge(ingest: DataIngest) -> AsyncIterator[tuple[Judge, Mainspring]]:
    server, judge = grpc.aio.server(), Judge()
    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(judge, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    addresses = {"data-ingest": f"127.0.0.1:{ingest.replicas[0].ports['grpc']}", "inference": f"127.0.0.1:{port}"}
    async with Mainspring.connect(addresses, token=ingest.token("contributor")) as mainspring:
        yield judge, mainspring
    await server.stop(None)


def item(prompt: str, **fields: Any) -> messages.AnnotationItem:
    turn = chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_USER, content=prompt)
    return messages.AnnotationItem(messages=[turn], **fields)


async def queued(mainspring: Mainspring, *items: messages.AnnotationItem, **fields: Any) -> None:
    values: dict[str, Any] = {"label_schema": CHOICE, "guidelines": "Judge the weather.", **fields}
    await mainspring.annotation.put_queue(messages.AnnotationQueue(name=QUEUE, **values))
    await mainspring.annotation.add(QUEUE, items)


async def suggestions(mainspring: Mainspring) -> dict[str, tuple[str, float]]:
    """What is suggested, and how surely, by what is asked."""
    return {
        found.messages[0].content: (found.suggestion.label.choices[0], round(found.suggestion.confidence, 4))
        async for found in mainspring.annotation.items(QUEUE)
        if found.HasField("suggestion")
    }


async def test_a_model_suggests_labels_with_how_sure_it_is_and_people_get_the_doubtful_ones_first(
    judge: tuple[Judge, Mainspring],
) -> None:
    model, mainspring = judge
    uncertainty = messages.AnnotationQueue.SELECTION_UNCERTAINTY
    gold = messages.Label(choices=["good"])
    items = [item("sun good"), item("rain BAD."), item("fog who-knows"), item("snow good", gold=gold)]
    await queued(mainspring, *items, selection=uncertainty)
    told = list[tuple[int, int]]()
    found = await suggest(mainspring, QUEUE, MODEL, on_progress=lambda done, total: told.append((done, total)))
    assert found == Suggested(asked=4, suggested=3, unusable=1, example="who-knows")
    assert told == [(4, 4)]
    assert await suggestions(mainspring) == {
        "sun good": ("good", 0.9), "rain BAD.": ("bad", 0.6), "snow good": ("good", 0.9),
    }  # fmt: skip
    assert all(prompt.startswith("Judge the weather.\n\n") and "good, bad" in prompt for prompt in model.prompts)
    # What has no suggestion is the least sure, then the least sure suggestion.
    for expected in ("fog who-knows", "rain BAD.", "sun good"):
        claimed = await mainspring.annotation.claim(QUEUE)
        assert claimed is not None
        assert claimed.messages[0].content == expected
        await mainspring.annotation.submit(claimed.name, None)


async def test_nothing_is_asked_twice_and_what_people_said_is_not_touched(judge: tuple[Judge, Mainspring]) -> None:
    model, mainspring = judge
    await queued(mainspring, *(item(f"day {number} good") for number in range(70)))
    labelled = await mainspring.annotation.claim(QUEUE)
    assert labelled is not None
    await mainspring.annotation.submit(labelled.name, messages.Label(choices=["bad"]))
    model.several.clear()
    assert await suggest(mainspring, QUEUE, MODEL, limit=40) == Suggested(asked=40, suggested=40)
    assert await suggest(mainspring, QUEUE, MODEL) == Suggested(asked=29, suggested=29, known=40)
    assert await suggest(mainspring, QUEUE, MODEL) == Suggested(known=69)
    assert (len(model.prompts), len(set(model.prompts))) == (69, 69)
    assert 1 < model.most <= 8
    model.most = 0
    assert (await suggest(mainspring, QUEUE, MODEL, again=True, concurrency=1)).suggested == 69
    assert model.most == 1
    assert labelled.messages[0].content not in await suggestions(mainspring)
    given = {labelled.name: messages.Suggestion(label=messages.Label(choices=["good"]), confidence=1)}
    assert await mainspring.annotation.suggest(QUEUE, given) == 0


async def test_a_model_that_is_away_costs_only_what_it_was_asked_last(judge: tuple[Judge, Mainspring]) -> None:
    model, mainspring = judge
    await queued(mainspring, *(item(f"day {number} good") for number in range(40)))

    def away(done: int, total: int) -> None:
        model.away = done < total

    with pytest.raises(MainspringError, match="its release was revoked"):
        await suggest(mainspring, QUEUE, MODEL, on_progress=away)
    assert len(await suggestions(mainspring)) == 32
    model.away = False
    assert await suggest(mainspring, QUEUE, MODEL) == Suggested(asked=8, suggested=8, known=32)


async def test_what_cannot_be_suggested_is_told(judge: tuple[Judge, Mainspring]) -> None:
    _, mainspring = judge
    await queued(mainspring, item("one who-knows"), item("two who-knows"))
    with pytest.raises(InvalidInput) as caught:
        await suggest(mainspring, QUEUE, MODEL)
    assert caught.value.reason == "NOTHING_SUGGESTED"
    assert "'who-knows'" in caught.value.message
    await queued(mainspring, label_schema=TEXT)
    with pytest.raises(InvalidInput) as caught:
        await suggest(mainspring, QUEUE, MODEL)
    assert caught.value.reason == "QUEUE_WITHOUT_LABELS"
    sure = messages.Suggestion(label=messages.Label(text="t"), confidence=1)
    for name, suggestion in (
        ("projects/p/annotationQueues/other/items/i", sure),
        ("projects/q/annotationQueues/q/items/i", sure),
        (f"{QUEUE}/items/i", messages.Suggestion(label=messages.Label(choices=["good"]), confidence=1)),
        (f"{QUEUE}/items/i", messages.Suggestion(label=messages.Label(text="t"), confidence=1.5)),
    ):
        with pytest.raises(InvalidInput):
            await mainspring.annotation.suggest(QUEUE, {name: suggestion})
    assert await mainspring.annotation.suggest(QUEUE, {f"{QUEUE}/items/i": sure}) == 0, "it is not there"


async def test_the_command_line_tells_what_came_of_it(
    judge: tuple[Judge, Mainspring], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, mainspring = judge
    await queued(mainspring, item("sun good"), item("fog who-knows"))
    endpoints = mainspring.connection.endpoints
    addresses = ",".join(f"{name}={address}" for name, address in endpoints.services.items())
    monkeypatch.setenv("MAINSPRING_ADDRESS", addresses)
    monkeypatch.setenv("MAINSPRING_TOKEN", endpoints.token)
    await asyncio.to_thread(cli.suggest, "q", "m", project="p", json_=True)
    wanted = Suggested(asked=2, suggested=1, unusable=1, example="who-knows")
    assert json.loads(capsys.readouterr().out) == asdict(wanted)
    with pytest.raises(InvalidInput):
        await asyncio.to_thread(cli.suggest, "q", "m", project="p", json_=False)
    assert capsys.readouterr().err == "asked about 1 of 1 items\n"


@pytest.mark.parametrize(
    ("schema", "answer", "label"),
    [
        (CHOICE, " Good.\n", messages.Label(choices=["good"])),
        (CHOICE, "**bad**", messages.Label(choices=["bad"])),
        (CHOICE, "good, bad", None),
        (CHOICE, "it is good", None),
        (CHOICE, "", None),
        (SEVERAL, "Red, dark", messages.Label(choices=["red, dark"])),
        (SEVERAL, "blue; blue", messages.Label(choices=["blue"])),
        (SEVERAL, "blue, green", None),
        (RATING, "4", messages.Label(rating=4)),
        (RATING, "6", None),
        (RATING, "\u0664", None),
        (RATING, "four", None),
        (PREFERENCE, "1", messages.Label(preferred=messages.Label.PREFERRED_FIRST)),
        (PREFERENCE, "Neither.", messages.Label(preferred=messages.Label.PREFERRED_TIE)),
        (PREFERENCE, "3", None),
        (TEXT, "anything", None),
    ],
)
def test_only_answers_that_are_labels_are_taken(
    schema: messages.LabelSchema, answer: str, label: messages.Label | None
) -> None:
    assert label_of(schema, answer) == label
