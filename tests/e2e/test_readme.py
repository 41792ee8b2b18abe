"""The README's own programs, run as they stand there but for the names of what they ask."""

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.support import loop
from tests.support.stack import Stack

from mainspring_client.client import Mainspring
from mainspring_client.flywheel import Result

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "readme"


def blocks(language: str) -> list[str]:
    """The README's code in one language, about this test's model instead of the demo's."""
    text = (ROOT / "README.md").read_text()
    text = text[text.index("## First calls") : text.index("## Your own loop")]
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for old, new in (
        ("projects/demo/models/summaries", f"projects/{PROJECT}/models/{loop.NAME}"),
        ('"model": "summaries"', f'"model": "{loop.NAME}"'),
        ('subscribe("demo"', f'subscribe("{PROJECT}"'),
        ("--project demo", f"--project {PROJECT}"),
        # The model's context is 256 tokens of two letters or so.
        ("Write the one-line summary of this Python code", "Say"),
    ):
        found = [block.replace(old, new) for block in found]
    return found


async def run(stack: Stack, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, "MAINSPRING_DATA": str(stack.data)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    return out.decode()


async def test_first_calls_and_the_subscriber_work_as_they_are_printed(
    stack: Stack, client: Mainspring, tmp_path: Path
) -> None:
    call, subscribe = blocks("python")
    follower = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        subscribe,
        env={**os.environ, "MAINSPRING_DATA": str(stack.data)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        base = await loop.import_base(client, PROJECT, stack.models)
        await client.apply(loop.configuration(PROJECT, base))
        rows = loop.write(tmp_path / "in.jsonl", loop.rows(0, 100))
        outcome = await loop.turn(client, PROJECT, await loop.ingest(client, PROJECT, rows))
        assert outcome.result is Result.RELEASED, outcome.reason
        assert follower.stdout is not None
        async with asyncio.timeout(30):
            heard = (await follower.stdout.readline()).decode()
    finally:
        follower.kill()
        await follower.wait()
    assert heard.startswith(f"projects/{PROJECT}/models/{loop.NAME}/versions/1 is out, manifest ")

    assert f"by projects/{PROJECT}/models/{loop.NAME}/versions/1" in await run(stack, sys.executable, "-c", call)
    shell = [block.replace("~/.mainspring-demo", str(stack.data)) for block in blocks("sh")]
    environment, curl, node = shell
    completion = await run(stack, "bash", "-c", environment + curl)
    assert '"object":"chat.completion"' in completion.replace(" ", "")
    assert '"answer"' in await run(stack, "bash", "-c", environment + node)
