"""Programs that stand in pages, run as readers would run them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tests.support.stack import Stack

ROOT = Path(__file__).resolve().parents[2]


def blocks(text: str, language: str, changes: Sequence[tuple[str, str]]) -> list[str]:
    """A page's code in one language, with names changed to this test's."""
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for old, new in changes:
        found = [block.replace(old, new) for block in found]
    return found


async def run(stack: Stack, *command: str, within_s: float = 60) -> str:
    """What a command prints, run at the root of the repository."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, "MAINSPRING_DATA": str(stack.data)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()[-2000:]
    return out.decode()
