"""The README's own programs, run as they stand there but for the names of what they ask."""

import asyncio
import os
import sys
from pathlib import Path

from tests.support import loop, pages
from tests.support.stack import Stack

from mainspring_client.client import Mainspring
from mainspring_client.flywheel import Result

PROJECT = "readme"


def blocks(language: str) -> list[str]:
    """The README's code in one language, about this test's model instead of the demo's."""
    text = (pages.ROOT / "README.md").read_text()
    text = text[text.index("## First calls") : text.index("## Your own loop")]
    changes = (
        ("projects/demo/models/summaries", f"projects/{PROJECT}/models/{loop.NAME}"),
        ('"model": "summaries"', f'"model": "{loop.NAME}"'),
        ('subscribe("demo"', f'subscribe("{PROJECT}"'),
        ("--project demo", f"--project {PROJECT}"),
        # The model's context is 256 tokens of two letters or so.
        ("Write the one-line summary of this Python code", "Say"),
    )
    return pages.blocks(text, language, changes)


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

    assert f"by projects/{PROJECT}/models/{loop.NAME}/versions/1" in await pages.run(stack, sys.executable, "-c", call)
    shell = [block.replace("~/.mainspring-demo", str(stack.data)) for block in blocks("sh")]
    environment, curl, node = shell
    completion = await pages.run(stack, "bash", "-c", environment + curl)
    assert '"object":"chat.completion"' in completion.replace(" ", "")
    assert '"answer"' in await pages.run(stack, "bash", "-c", environment + node)
