"""The programs of examples/, in Node on the contracts alone and in Python: names, 64-bit integers, enums, errors and
events arrive as promised.

The server is svckit's, with all that stands around every call; what it answers is scripted here. The bus is the real
one, and programs come to it with the rights of a subscriber and nothing more.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.scripted import MANY, MODEL, TEXT, Servicer, lines_of, released

from mainspring.common.v1 import chat_pb2
from mainspring.events.v1 import registry_events_pb2
from mainspring_eventkit import topology
from mainspring_eventkit.bus import Bus
from mainspring_testkit.events import publish
from mainspring_testkit.plugin import Token
from mainspring_testkit.waiting import eventually

PYTHON_EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"


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

    # Of no interest to those who load releases.
    await publish(bus, registry_events_pb2.ReleaseRefused(model_version=f"{MODEL}/versions/4", model=MODEL))
    revoked = registry_events_pb2.ReleaseRevoked(release=f"{MODEL}/releases/3", model=MODEL, reason="worse")
    away = [await publish(bus, event) for event in (released(3), revoked)]
    again = await start_node("follow.mjs", "p", "backend", "--count", "2", MAINSPRING_NATS_URL=url)
    assert [event["id"] for event in await lines_of(again)] == away


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
