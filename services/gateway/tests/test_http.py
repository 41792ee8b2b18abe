"""The door over real HTTP, with OpenAI's own client; the engine, the ledger and the services behind are fakes."""

import asyncio
import base64
import contextlib
import json
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import openai
import pytest

from mainspring_answers.domain import (
    Route,
    RoutingTable,
    Sampling,
)
from mainspring_answers.path import AnswerPath
from mainspring_answers.ports import Chunk
from mainspring_answers.templates import JinjaTemplates
from mainspring_gateway.application.ports import Judgement
from mainspring_gateway.transport.app import MAX_BODY_BYTES, make_app
from mainspring_gateway.transport.http import Door
from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.errors import InvalidInput, MainspringError, NotFound, Unavailable
from mainspring_svckit.health import Health
from mainspring_svckit.http_server import serve_http
from mainspring_svckit.ids import new_id
from mainspring_svckit.values import GuardAction, GuardDirection, GuardRule, ServedGuard, ServedUnit, rules_sha256
from mainspring_testkit.answer_path import FakeContext, FakeEngine, FakeLedger, FakeRoutes
from mainspring_testkit.fakes import FakeClock
from mainspring_testkit.plugin import Token
from mainspring_testkit.waiting import eventually

from .fakes import FakeServices

MODEL = "projects/p/models/m"
TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
ROUTE = Route(f"{MODEL}/versions/1", f"{MODEL}/releases/1", 100, "t", chat_template=TEMPLATE)


class World:
    def __init__(
        self,
        url: str,
        engine: FakeEngine,
        ledger: FakeLedger,
        services: FakeServices,
        routes: FakeRoutes,
        token: Token,
    ) -> None:
        self.url, self.engine, self.ledger, self.services, self.token = url, engine, ledger, services, token
        self.routes = routes
        self.clients: list[openai.AsyncOpenAI] = []
        self.http = httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {token('contributor')}"})

    def client(self, *roles: str, **options: Any) -> openai.AsyncOpenAI:
        key = self.token(*(roles or ("contributor",)), project=options.pop("token_project", "p"))
        client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)
        self.clients.append(client)
        return client

    async def chat(self, **body: Any) -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
        return await self.http.post("/v1/chat/completions", json=body)


@pytest.fixture
async def world(verifier: TokenVerifier, token: Token) -> AsyncIterator[World]:
    engine, ledger, services = FakeEngine(), FakeLedger(), FakeServices()
    engine.script = engine.says("Hel", "lo 🙂")
    routes: Any = FakeRoutes(RoutingTable(MODEL, 1, (ROUTE,)))
    path = AnswerPath(
        engine=engine,
        routes=routes,
        templates=JinjaTemplates(),
        context=FakeContext(),
        ledger=ledger,
        clock=FakeClock(),
    )
    door = Door(verifier=verifier, path=path, routes=routes, embeddings=services, feedback=services)
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(serve_http(make_app([door.router()], Health()), listening, 2))
    world = World(f"http://127.0.0.1:{listening.getsockname()[1]}", engine, ledger, services, routes, token)
    yield world
    await asyncio.gather(world.http.aclose(), *(client.close() for client in world.clients))
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


MESSAGES: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]


async def test_openais_client_gets_an_answer(world: World) -> None:
    answer = await world.client().chat.completions.create(model="m", messages=MESSAGES, temperature=0, seed=3, stop="X")
    assert answer.choices[0].message.content == "Hello 🙂"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)
    assert world.engine.prompts == ["system:s;user:hi;"]
    assert world.engine.asked[0].sampling == Sampling(temperature=0, seed=3, stop=("X",))
    assert answer.id == "chatcmpl-" + world.ledger.answers[0].name.rsplit("/", 1)[-1]


async def test_openais_client_gets_a_stream_with_usage_at_its_end(world: World) -> None:
    stream = await world.client().chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello 🙂"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 9
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].model_extra is not None
    assert chunks[-2].model_extra["mainspring"]["answer"] == world.ledger.answers[0].name
    assert {chunk.id for chunk in chunks} == {"chatcmpl-" + world.ledger.answers[0].name.rsplit("/", 1)[-1]}


async def test_completions_continue_a_prompt(world: World) -> None:
    answer = await world.client().completions.create(model="m/versions/1", prompt="once", max_tokens=5)
    assert answer.choices[0].text == "Hello 🙂"
    assert world.engine.prompts == ["once"]
    stream = await world.client().completions.create(model="m", prompt="once", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello 🙂"


async def test_models_are_listed_and_read(world: World) -> None:
    models = [model.id async for model in world.client("viewer").models.list()]
    assert models == ["m"]
    assert (await world.client("viewer").models.retrieve("m")).owned_by == "mainspring"
    with pytest.raises(openai.NotFoundError):
        await world.client("viewer").models.retrieve("other")


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings_come_as_floats_or_base64(world: World, encoding: Any) -> None:
    body = {"model": "e", "input": ["a", "b"], "encoding_format": encoding}
    made = (await world.http.post("/v1/embeddings", json=body)).json()
    vector = made["data"][1]["embedding"]
    if encoding == "base64":
        vector = list(struct.unpack("<2f", base64.b64decode(vector)))
    assert vector == pytest.approx([0.6, 0.8])
    by_client = await world.client().embeddings.create(model="e", input="a")
    assert by_client.data[0].embedding == pytest.approx([0.6, 0.8])


async def test_context_is_cited(world: World) -> None:
    answer = (await world.chat(context={"collection": "docs"})).json()
    citation = answer["mainspring"]["citations"][0]
    assert (citation["number"], citation["text"]) == (1, "passage 1 of projects/p/collections/docs")
    assert "passage 1 of" in world.engine.prompts[0]
    foreign = await world.chat(context={"collection": "projects/q/collections/docs"})
    assert foreign.status_code == 404


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("thumb", False, {"thumb": False}),
        ("score", 0.5, {"score": 0.5}),
        ("score", 1, {"score": 1.0}),
        ("correction", "better", {"correction": "better"}),
        ("preference", "chatcmpl-b", {"rejected_answer": "projects/p/answers/b"}),
    ],
)
async def test_feedback_is_sent_on(world: World, name: str, value: Any, expected: dict[str, Any]) -> None:
    key = new_id()
    sent = await world.http.post(
        "/v1/feedback",
        json={"target_id": "chatcmpl-a", "name": name, "value": value, "comment": "c"},
        headers={"idempotency-key": key},
    )
    assert (sent.status_code, sent.json()["id"]) == (201, "f1")
    judged = Judgement("projects/p/answers/a", comment="c", **expected)
    assert world.services.judgements == [("p", judged, key)]


@pytest.mark.parametrize(("name", "value"), [("thumb", 1), ("score", 2), ("score", True), ("correction", " ")])
async def test_feedback_of_the_wrong_kind_is_refused(world: World, name: str, value: Any) -> None:
    refused = await world.http.post("/v1/feedback", json={"target_id": "a", "name": name, "value": value})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "value"


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (InvalidInput("too long", reason="CONTEXT_LENGTH_EXCEEDED"), 400, openai.BadRequestError),
        (NotFound("ServedModel", "x"), 404, openai.NotFoundError),
        (Unavailable("TRITON_UNAVAILABLE", "away", retry_after_s=2), 503, openai.InternalServerError),
    ],
)
async def test_errors_are_those_that_openais_client_knows(
    world: World, failure: MainspringError, status: int, kind: type[openai.APIStatusError]
) -> None:
    world.engine.script = world.engine.says(failure=failure)
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            await world.client().chat.completions.create(model="m", messages=MESSAGES, stream=stream)
        assert caught.value.status_code == status
        assert caught.value.code == failure.reason.lower()
    retry = isinstance(failure, Unavailable)
    assert caught.value.response.headers["x-should-retry"] == ("true" if retry else "false")
    assert caught.value.response.headers.get("retry-after-ms") == ("2000" if retry else None)


async def test_i12_an_error_in_a_stream_is_an_event_and_no_done_follows(world: World) -> None:
    world.engine.script = world.engine.says("Hel", failure=Unavailable("TRITON_UNAVAILABLE", "died"))
    lines = (await world.chat(stream=True)).text.strip().split("\n\n")
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "triton_unavailable"
    assert "[DONE]" not in "".join(lines)
    with pytest.raises(openai.APIError, match="died"):
        async for _ in await world.client().chat.completions.create(model="m", messages=MESSAGES, stream=True):
            pass


@pytest.mark.parametrize("stream", [True, False])
async def test_f18_a_client_that_leaves_ends_the_generation_within_a_second(world: World, stream: bool) -> None:
    async def endless(_: str) -> AsyncGenerator[Chunk]:
        yield Chunk("Hel")
        await asyncio.Event().wait()

    async def left() -> bool:
        return world.engine.closed == 1

    world.engine.script = endless
    with contextlib.suppress(httpx.TimeoutException):
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        await world.http.post("/v1/chat/completions", json=body, timeout=0.3)
    await eventually(left, within_s=1, what="the end of the generation")


async def test_a1_every_route_wants_a_token_and_a_role(world: World) -> None:
    app: Any = make_app(
        [Door(verifier=None, path=None, routes=None, embeddings=None, feedback=None).router()],  # type: ignore[arg-type]
        Health(),
    )
    routes = [(path, method) for path, methods in app._app.openapi()["paths"].items() for method in methods]
    assert len(routes) >= 6
    for route, method in routes:
        path = route.replace("{model}", "m")
        body: dict[str, Any] = (
            {"json": {"model": "m", "messages": MESSAGES, "prompt": "x", "input": "x"}} if method == "post" else {}
        )
        bare = httpx.AsyncClient(base_url=world.url)
        assert (await bare.request(method, path, **body)).status_code == 401, path
        forged = {"authorization": "Bearer a.b.c"}
        assert (await bare.request(method, path, headers=forged, **body)).status_code == 401, path
        low = {"authorization": f"Bearer {world.token('annotator' if 'feedback' not in path else 'viewer')}"}
        assert (await bare.request(method, path, headers=low, **body)).status_code in {400, 403}, path
        await bare.aclose()
    with pytest.raises(openai.PermissionDeniedError):
        await world.client("viewer").chat.completions.create(model="m", messages=MESSAGES)


async def test_a3_another_projects_models_are_not_found(world: World) -> None:
    assert (await world.chat(model="projects/q/models/m")).status_code == 404
    other = world.client("contributor", token_project="q")
    assert [model.id async for model in other.models.list()] == []
    with pytest.raises(openai.NotFoundError):
        await other.chat.completions.create(model="m", messages=MESSAGES)


async def test_a_token_for_all_projects_names_one(world: World) -> None:
    with pytest.raises(openai.BadRequestError, match="OpenAI-Project"):
        await world.client("admin", token_project="*").models.list()
    listed = await world.client("admin", token_project="*", project="p").models.list()
    assert [model.id for model in listed.data] == ["m"]
    with pytest.raises(openai.NotFoundError):
        await world.client("admin", token_project="p", project="q").models.list()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"model": "m", "messages": []}',
        b'{"model": "m", "messages": [{"role": "root", "content": "x"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": {"a": 1}}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 1000000000}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 1e400}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "stop": ["'
        + b'","'.join([b"a"] * 999)
        + b'"]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [{}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema"}}',
        b'{"model": "m", "messages": ' + b"[" * 100_000,
        b'{"model": "../../m", "messages": [{"role": "user", "content": "x"}]}',
    ],
)
async def test_b3_b4_bad_bodies_are_refused_before_any_work(world: World, body: bytes) -> None:
    sent = await world.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert sent.status_code == 400, sent.text
    assert sent.json()["error"]["type"] == "invalid_request_error"
    assert world.engine.prompts == []


async def test_b4_a_body_above_the_limit_is_refused(world: World) -> None:
    sent = await world.http.post("/v1/chat/completions", content=b"x" * (MAX_BODY_BYTES + 1))
    assert sent.status_code == 413


async def test_unknown_fields_and_parts_of_text_are_taken(world: World) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    sent = await world.chat(messages=[{"role": "developer", "content": parts}], frequency_penalty=0, made_up={"x": 1})
    assert sent.status_code == 200
    assert world.engine.prompts == ["system:ab;"]
    assert sent.headers["x-request-id"]


async def test_unknown_paths_and_methods_have_openais_errors(world: World) -> None:
    missing = await world.http.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (await world.http.get("/v1/chat/completions")).status_code == 405


RULES = (
    GuardRule("secret", GuardDirection.BOTH, GuardAction.REFUSE, "I cannot talk of that.", texts=("zephyr",)),
    GuardRule("seen", GuardDirection.INPUT, GuardAction.RECORD, texts=("hi",)),
)
GUARD = ServedGuard("projects/p/guardPolicies/g/versions/1", rules_sha256(RULES), RULES)


async def test_b11_openais_client_is_told_that_a_guard_ended_the_answer(world: World) -> None:
    world.routes.known[MODEL] = RoutingTable(MODEL, 2, (replace(ROUTE, unit=ServedUnit(guard=GUARD)),))
    world.engine.script = world.engine.says("Well, zep", "hyr is a wind.")
    answer = await world.client().chat.completions.create(model="m", messages=MESSAGES)
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("content_filter", "Well, \n\nI cannot talk of that.")
    assert answer.model_extra is not None
    ours = answer.model_extra["mainspring"]
    assert (ours["guard_policy_version"], ours["guard_rules"]) == (GUARD.guard_policy_version, ["seen", "secret"])
    for named in ("m", "m/versions/1"):
        stream = await world.client().completions.create(model=named, prompt="zephyr", stream=True)
        (said,) = [chunk.choices[0] async for chunk in stream if chunk.choices[0].text]
        assert said.text == "I cannot talk of that."
    chunks = [chunk async for chunk in await world.client().chat.completions.create(
        model="m", messages=MESSAGES, stream=True
    )]  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert len(world.engine.asked) == 2


async def test_f10_openais_client_gets_no_answer_under_a_guard_that_was_not_released(world: World) -> None:
    broken = ServedUnit(guard=replace(GUARD, rules=RULES[1:]))
    world.routes.known[MODEL] = RoutingTable(MODEL, 2, (replace(ROUTE, unit=broken),))
    response = await world.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (409, "guard_policy_broken")
    assert world.engine.asked == []
