"""The programs of examples/, in Node on the contracts alone and in Python: names, 64-bit integers, enums, errors and
events arrive as promised.

The server is svckit's, with all that stands around every call; what it answers is scripted here. The bus is the real
one, and programs come to it with the rights of a subscriber and nothing more.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from nats.aio.client import Client

from mainspring.common.v1 import artifact_pb2, chat_pb2
from mainspring.events.v1 import registry_events_pb2
from mainspring.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from mainspring.inference.v1 import answer_pb2, inference_service_pb2_grpc
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring_client.stack import rights
from mainspring_client.stack.component import free_port, start
from mainspring_client.stack.nats import nats_component, user_url
from mainspring_client.stack.services import SERVICES
from mainspring_eventkit import topology
from mainspring_eventkit.bus import Bus
from mainspring_svckit.auth import TokenVerifier, current_principal
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.grpc_server import GrpcServer
from mainspring_svckit.health import Health
from mainspring_testkit.events import publish
from mainspring_testkit.plugin import Token
from mainspring_testkit.servers import scratch_folder
from mainspring_testkit.waiting import eventually

PYTHON_EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"
MODEL = "projects/p/models/summaries"
TEXT = 'naïve "100 %" — 日本語 🙂'
# More than a JavaScript number holds exactly.
MANY = (1 << 53) + 1


class Servicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """Answers with what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def answer(self, request: Any) -> answer_pb2.Answer:
        self.asked.append(request)
        answer = answer_pb2.Answer(
            name="projects/p/answers/a-1",
            text=f"{request.messages[-1].content} for {current_principal.get().subject}",
            finish_reason=answer_pb2.FINISH_REASON_LENGTH,
            model_version=f"{MODEL}/versions/3",
            usage=chat_pb2.TokenUsage(input_tokens=MANY, output_tokens=2),
        )
        answer.latency.FromMilliseconds(1250)
        return answer

    async def GenerateAnswer(self, request: pb.GenerateAnswerRequest, context: Any) -> pb.GenerateAnswerResponse:
        if request.model.endswith("/away"):
            raise Unavailable("MODEL_LOADING", "the model is being loaded; ask again", retry_after_s=3)
        return pb.GenerateAnswerResponse(answer=self.answer(request))

    async def StreamAnswer(
        self, request: pb.StreamAnswerRequest, context: Any
    ) -> AsyncIterator[pb.StreamAnswerResponse]:
        for piece in ("", "naïve ", "🙂"):
            yield pb.StreamAnswerResponse(delta=piece)
        if not request.model.endswith("/cut"):
            yield pb.StreamAnswerResponse(answer=self.answer(request))

    async def ListServedModels(self, request: pb.ListServedModelsRequest, context: Any) -> pb.ListServedModelsResponse:
        return pb.ListServedModelsResponse()


class FeedbackServicer(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """Takes feedback; only the call that the examples make."""

    async def CreateFeedbackItem(
        self, request: feedback_service_pb2.CreateFeedbackItemRequest, context: Any
    ) -> feedback_service_pb2.CreateFeedbackItemResponse:
        item = request.feedback_item
        item.name = f"{request.parent}/feedbackItems/f-1"
        return feedback_service_pb2.CreateFeedbackItemResponse(feedback_item=item)


@pytest_asyncio.fixture(loop_scope="session")
async def served(verifier: TokenVerifier) -> AsyncIterator[tuple[str, Servicer]]:
    """An address, and what answers there."""
    server = GrpcServer(verifier=verifier, health=Health(), database=None)
    servicer = Servicer()
    server.add(
        "mainspring.inference.v1.InferenceService",
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server,
        servicer,
    )
    server.add(
        "mainspring.feedback.v1.FeedbackService",
        feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server,
        cast("Any", FeedbackServicer)(),
    )
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.stop(0)


@pytest_asyncio.fixture(loop_scope="session")
async def bus_and_url() -> AsyncIterator[tuple[Bus, str]]:
    """The administrator's connection to a bus with all its users, and the subscriber's URL."""
    declared = topology.load()
    users = {
        user.name: user
        for user in rights.users(SERVICES, declared, {name: f"secret-{name}" for name in rights.user_names(SERVICES)})
    }
    async with scratch_folder("nats") as folder:
        port = free_port()
        running = await start(nats_component(folder, port, list(users.values())))
        try:
            await running.wait_ready()
            admin = Client()
            await admin.connect(user_url(users[rights.ADMIN], port))
            await topology.apply(admin.jetstream(), declared)
            yield Bus(admin), user_url(users[rights.SUBSCRIBER], port)
            await admin.close()
        finally:
            await running.stop()


async def lines_of(process: asyncio.subprocess.Process, status: int = 0) -> list[dict[str, Any]]:
    """What it printed, once it has ended."""
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == status, err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]


def released(number: int) -> registry_events_pb2.ModelReleased:
    return registry_events_pb2.ModelReleased(
        release=f"{MODEL}/releases/{number}",
        model=MODEL,
        model_version=f"{MODEL}/versions/{number}",
        release_number=number,
        manifest=artifact_pb2.Artifact(sha256="ab" * 32, size_bytes=MANY, filename=TEXT),
    )


async def test_a_whole_answer_arrives_with_names_text_and_big_numbers(
    start_node: Any, served: tuple[str, Servicer], token: Token
) -> None:
    address, servicer = served
    process = await start_node(
        "answer.mjs", MODEL, TEXT, MAINSPRING_ADDRESS=address, MAINSPRING_TOKEN=token("contributor")
    )
    (line,) = await lines_of(process)
    answer = line["answer"]
    assert answer["text"] == f"{TEXT} for tester"
    assert answer["model_version"] == f"{MODEL}/versions/3"
    assert answer["usage"] == {"input_tokens": str(MANY), "output_tokens": "2"}
    assert answer["finish_reason"] == "FINISH_REASON_LENGTH"
    assert answer["latency"] == {"seconds": "1", "nanos": 250_000_000}
    (asked,) = servicer.asked
    assert asked.messages[0].role == chat_pb2.ChatMessage.ROLE_USER
    assert asked.sampling.max_output_tokens == 64
    # Zero was given, not left out.
    assert asked.sampling.HasField("temperature")
    assert asked.sampling.temperature == 0


async def test_a_stream_brings_pieces_and_then_the_whole_answer(
    start_node: Any, served: tuple[str, Servicer], token: Token
) -> None:
    env = {"MAINSPRING_ADDRESS": served[0], "MAINSPRING_TOKEN": token("contributor")}
    *pieces, last = await lines_of(await start_node("answer.mjs", MODEL, TEXT, "--stream", **env))
    assert pieces == [{"delta": ""}, {"delta": "naïve "}, {"delta": "🙂"}]
    assert last["answer"]["usage"]["input_tokens"] == str(MANY)


async def test_a_stream_that_was_cut_short_is_an_error(
    start_node: Any, served: tuple[str, Servicer], token: Token
) -> None:
    env = {"MAINSPRING_ADDRESS": served[0], "MAINSPRING_TOKEN": token("contributor")}
    *_, last = await lines_of(await start_node("answer.mjs", f"{MODEL}/versions/cut", TEXT, "--stream", **env), 1)
    assert last["error"]["reason"] == "CUT_SHORT"


@pytest.mark.parametrize("how", [[], ["--stream"]])
async def test_errors_arrive_with_reason_and_all_violations(
    start_node: Any, served: tuple[str, Servicer], token: Token, how: list[str]
) -> None:
    env = {"MAINSPRING_ADDRESS": served[0], "MAINSPRING_TOKEN": token("contributor")}
    process = await start_node("answer.mjs", MODEL, "", "--max-tokens", "40000", *how, **env)
    *_, last = await lines_of(process, 1)
    error = last["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    details = {detail["type"]: detail for detail in error["details"]}
    assert details["google.rpc.ErrorInfo"]["domain"] == "mainspring"
    assert details["google.rpc.ErrorInfo"]["reason"] == error["reason"] != ""
    fields = [violation["field"] for violation in details["google.rpc.BadRequest"]["field_violations"]]
    assert "sampling.max_output_tokens" in fields


async def test_a_retry_that_can_help_is_told(start_node: Any, served: tuple[str, Servicer], token: Token) -> None:
    env = {"MAINSPRING_ADDRESS": served[0], "MAINSPRING_TOKEN": token("contributor")}
    (line,) = await lines_of(await start_node("answer.mjs", f"{MODEL}/versions/away", TEXT, **env), 1)
    details = {detail["type"]: detail for detail in line["error"]["details"]}
    assert (line["error"]["code"], line["error"]["reason"]) == ("UNAVAILABLE", "MODEL_LOADING")
    assert details["google.rpc.RetryInfo"]["retry_delay"]["seconds"] == "3"


@pytest.mark.parametrize(
    ("roles", "project", "code"),
    [(("viewer",), "p", "PERMISSION_DENIED"), (("admin",), "other", "NOT_FOUND"), (None, "", "UNAUTHENTICATED")],
)
async def test_a_token_without_the_right_is_refused(
    start_node: Any, served: tuple[str, Servicer], token: Token, roles: tuple[str, ...] | None, project: str, code: str
) -> None:
    given = token(*roles, project=project) if roles else "nonsense"
    env = {"MAINSPRING_ADDRESS": served[0], "MAINSPRING_TOKEN": given}
    (line,) = await lines_of(await start_node("answer.mjs", MODEL, TEXT, **env), 1)
    assert line["error"]["code"] == code
    assert line["error"]["reason"]
    assert not served[1].asked


async def test_releases_are_heard_once_in_order_and_also_after_being_away(
    start_node: Any, bus_and_url: tuple[Bus, str]
) -> None:
    bus, url = bus_and_url
    first = await start_node("follow.mjs", "p", "backend", "--count", "2", MAINSPRING_NATS_URL=url)
    async with asyncio.timeout(30):
        assert await first.stderr.readline() == b"following\n"
    ids = [await publish(bus, released(1), cycle="c-1", event_id=f"00000000-0000-7000-8000-{i:012}") for i in (1, 1)]
    ids.append(await publish(bus, released(2)))
    heard = await lines_of(first)
    assert [event["id"] for event in heard] == ids[1:]
    event = heard[0]
    assert event["type"] == "mainspring.registry.model.released.v1"
    assert event["specversion"] == "1.0"
    assert event["subject"] == f"{MODEL}/releases/1"
    assert event["dataschema"] == "proto:mainspring.events.v1.ModelReleased"
    assert (event["project"], event["cycle"]) == ("p", "c-1")
    assert event["data"]["releaseNumber"] == "1"
    assert event["data"]["manifest"] == {"sha256": "ab" * 32, "sizeBytes": str(MANY), "filename": TEXT}

    away = await publish(bus, released(3))
    again = await start_node("follow.mjs", "p", "backend", "--count", "1", MAINSPRING_NATS_URL=url)
    assert [event["id"] for event in await lines_of(again)] == [away]


async def test_a_subscriber_that_is_killed_hears_what_it_had_not_handled(
    start_node: Any, bus_and_url: tuple[Bus, str]
) -> None:
    bus, url = bus_and_url
    killed = await start_node("follow.mjs", "p", "backend", MAINSPRING_NATS_URL=url)
    async with asyncio.timeout(30):
        assert await killed.stderr.readline() == b"following\n"
        first = await publish(bus, released(1))
        assert json.loads(await killed.stdout.readline())["id"] == first

        async def acknowledged() -> bool:
            info = await bus.jetstream.consumer_info(topology.EVENTS_STREAM, "backend")
            return info.num_ack_pending == 0

        await eventually(acknowledged, within_s=10, what="the first release to be acknowledged")
        killed.kill()
        await killed.wait()
    second = await publish(bus, released(2))
    again = await start_node("follow.mjs", "p", "backend", "--count", "1", MAINSPRING_NATS_URL=url)
    assert [event["id"] for event in await lines_of(again)] == [second]


async def test_a_subscriber_may_not_follow_what_people_wrote(start_node: Any, bus_and_url: tuple[Bus, str]) -> None:
    _, url = bus_and_url
    arguments = ("follow.mjs", "p", "curious", "--type", "mainspring.inference.response.completed.v1")
    process = await start_node(*arguments, MAINSPRING_NATS_URL=url)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode != 0
    assert not out
    assert b"following" not in err


async def run_python(script: str, *arguments: str, **env: str) -> tuple[str, str]:
    """Output of a program of examples/python; it must end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PYTHON_EXAMPLES / script),
        *arguments,
        env={"PYTHONUTF8": "1", **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        ("first_call.py", [], f"{TEXT} for tester\n"),
        ("stream.py", [], "naïve 🙂"),
        (
            "feedback.py",
            ["As it should be."],
            f"{TEXT} for tester\n-> As it should be.  (projects/p/feedbackItems/f-1)\n",
        ),
    ],
)
async def test_python_examples_ask_and_judge(
    served: tuple[str, Servicer], token: Token, script: str, arguments: list[str], told: str
) -> None:
    env = {"MAINSPRING_ADDRESS": served[0], "MAINSPRING_TOKEN": token("admin")}
    out, _ = await run_python(script, MODEL, TEXT, *arguments, **env)
    assert out == told


async def test_the_python_example_hears_releases(bus_and_url: tuple[Bus, str]) -> None:
    bus, url = bus_and_url
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PYTHON_EXAMPLES / "follow_releases.py"),
        "p",
        "python-backend",
        env={"MAINSPRING_ADDRESS": "127.0.0.1:1", "MAINSPRING_TOKEN": "unused", "MAINSPRING_NATS_URL": url},
        stdout=asyncio.subprocess.PIPE,
    )
    try:

        async def subscribed() -> bool:
            names = {one.name for one in await bus.jetstream.consumers_info(topology.EVENTS_STREAM)}
            return "python-backend" in names

        await eventually(subscribed, within_s=30, what="the example to subscribe")
        await publish(bus, released(1))
        await publish(bus, registry_events_pb2.ReleaseRevoked(release=f"{MODEL}/releases/1", model=MODEL, reason="bad"))
        assert process.stdout is not None
        async with asyncio.timeout(30):
            lines = [(await process.stdout.readline()).decode() for _ in range(2)]
    finally:
        process.kill()
        await process.communicate()
    assert f"released {MODEL}/releases/1: {MODEL}/versions/1, manifest {'ab' * 32}" in lines[0]
    assert lines[1].endswith(f"revoked {MODEL}/releases/1: bad\n")
