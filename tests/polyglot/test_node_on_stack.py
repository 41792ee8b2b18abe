"""A Node program against the whole stack: hears of a release on the real bus, asks the released model, streams."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.support import loop
from tests.support.stack import Stack

from mainspring_client.client import Mainspring
from mainspring_client.flywheel import Result

PROJECT = "polyglot"
MODEL = f"projects/{PROJECT}/models/{loop.NAME}"


async def test_node_hears_of_a_release_asks_the_model_judges_and_reads_what_the_turn_brought(
    start_node: Any, stack: Stack, client: Mainspring, generated: Path, tmp_path: Path
) -> None:
    status = await stack.status()
    url = Path(status["nats_subscriber_url_file"]).read_text().strip()
    follower = await start_node("follow.mjs", PROJECT, "node-backend", "--count", "1", MAINSPRING_NATS_URL=url)
    async with asyncio.timeout(30):
        assert await follower.stderr.readline() == b"following\n"

    base = await loop.import_base(client, PROJECT, stack.models)
    await client.apply(loop.configuration(PROJECT, base))
    data = loop.write(tmp_path / "in.jsonl", loop.rows(0, 120))
    outcome = await loop.turn(client, PROJECT, await loop.ingest(client, PROJECT, data))
    assert outcome.result is Result.RELEASED, outcome.reason

    (event,) = await lines_of(follower)
    assert event["type"] == "mainspring.registry.model.released.v1"
    assert event["subject"] == event["data"]["release"]
    assert event["data"]["model"] == MODEL
    assert event["data"]["releaseNumber"] == "1"

    env = {"MAINSPRING_ADDRESS": status["services"]["inference"], "MAINSPRING_TOKEN": stack.token}
    ask = ("answer.mjs", MODEL, loop.question(1000), "--max-tokens", "16")
    (whole,) = await lines_of(await start_node(*ask, **env))
    answer = whole["answer"]
    assert answer["name"].startswith(f"projects/{PROJECT}/answers/")
    assert answer["model_version"] == event["data"]["modelVersion"]
    assert 1 <= int(answer["usage"]["output_tokens"]) <= 16
    *pieces, last = await lines_of(await start_node(*ask, "--stream", **env))
    assert "".join(piece["delta"] for piece in pieces) == last["answer"]["text"] == answer["text"]

    services = ",".join(f"{name}={status['services'][name]}" for name in ("evaluator", "trainer", "feedback"))
    env = {"MAINSPRING_ADDRESS": services, "MAINSPRING_TOKEN": stack.token}
    loaded = check_services(await lines_of(await start_node("turn.mjs", PROJECT, answer["name"], **env)), [2, 1])
    program = ("turn-generated.mjs", str(generated), PROJECT, answer["name"])
    assert check_services(await lines_of(await start_node(*program, **env)), [2, 2, 2]) == loaded


def check_services(lines: list[dict[str, Any]], feedback_pages: list[int]) -> list[dict[str, Any]]:
    """Pages, streams, errors with their details and a deadline of three services; returns what no call changes."""
    evaluation, training, feedback = lines
    assert evaluation["service"] == "evaluator"
    assert evaluation["pages"] == [12, 12, 6]
    assert evaluation["watched"] == [True, "STATE_SUCCEEDED"]
    assert (evaluation["refused"]["code"], bool(evaluation["refused"]["reason"])) == ("INVALID_ARGUMENT", True)
    assert sorted(evaluation["refused"]["fields"]) == ["page_size", "scorer"]
    *full, rest = training["pages"]
    assert full == [25] * len(full)
    assert 0 < rest <= 25
    assert training["watched"] == [True, "STATE_SUCCEEDED", sum(training["pages"])]
    wanted = {"code": "FAILED_PRECONDITION", "reason": "ILLEGAL_STATE_TRANSITION", "fields": []}
    assert training["refused"] == wanted
    assert feedback["made"] == ["correction", "score", "thumb"]
    assert feedback.pop("pages") == feedback_pages
    assert feedback["refused"]["code"] == "INVALID_ARGUMENT"
    assert "feedback_item.answer" in feedback["refused"]["fields"]
    assert feedback["unknown"] == {"code": "NOT_FOUND", "reason": "FEEDBACK_ITEM_NOT_FOUND", "fields": []}
    assert feedback["late"] == "DEADLINE_EXCEEDED"
    return lines


async def test_node_brings_a_file_to_a_version_and_takes_it_elsewhere(
    start_node: Any, stack: Stack, tmp_path: Path
) -> None:
    status = await stack.status()
    rows = [{"q": f"question {number}?", "a": f"answer {number}"} for number in range(5)]
    rows += [{"q": "markup?", "a": "<p>no <b>markup</b></p>"}, {"q": "", "a": "x"}, {"q": "nothing", "a": ""}, {"q": 1}]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = {"MAINSPRING_ADDRESS": status["services"]["data-ingest"], "MAINSPRING_TOKEN": stack.token}
    lines = await lines_of(await start_node("data.mjs", "polyglot-data", "node", str(file), "q", "a", **env))
    said = {key: value for line in lines for key, value in line.items()}
    assert [name.rsplit("/", 1)[1] for name in said["versions"]] == ["1", "2"]
    # 64-bit integers arrive as text.
    assert said["report"] == {"input": "9", "unchanged": "5", "changed": "1"}
    assert said["refused"] == [
        ["7", "REFUSAL_REASON_EMPTY"],
        ["8", "REFUSAL_REASON_EMPTY"],
        ["9", "REFUSAL_REASON_MISSING_COLUMN"],
    ]
    assert sorted(said["rows"]) == sorted([*(f"answer {number}" for number in range(5)), "no markup"])
    assert said["comparison"] == {"same": "5", "changed": "1"}
    assert said["kinds"] == ["KIND_CHANGED"]
    assert said["tags"] == [{"tag": "reviewed", "dataset_version": said["versions"][1]}]
    assert said["preview"] == ["FORMAT_JSONL", ["q", "a"]]
    assert said["annotation"] == {"labelled": 3, "input": "3"}
    assert {"README.md", "croissant.json", "manifest.json", "report.json"} < said["files"].keys()
    assert all(size > 0 for size in said["files"].values())
    assert said["erasure"] == "STATE_PENDING"


async def lines_of(process: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    """What it printed, once it has ended well."""
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, out.decode() + err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]
