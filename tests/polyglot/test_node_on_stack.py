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


async def test_node_hears_of_a_release_and_asks_the_model(
    start_node: Any, stack: Stack, client: Mainspring, tmp_path: Path
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


async def lines_of(process: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    """What it printed, once it has ended well."""
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, out.decode() + err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]
