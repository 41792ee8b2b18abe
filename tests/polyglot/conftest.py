"""Programs of examples/node as child processes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "node"

StartNode = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest_asyncio.fixture(loop_scope="session")
async def start_node() -> AsyncIterator[StartNode]:
    """Starts a program of examples/node: `start_node("answer.mjs", "argument", MAINSPRING_TOKEN=...)`. What still runs
    at the end of the test is killed.
    """
    if not (EXAMPLES / "node_modules").is_dir():
        pytest.fail("examples/node has no packages; 'make setup' installs them (npm ci)")
    started: list[asyncio.subprocess.Process] = []

    async def start(script: str, *arguments: str, **env: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "tools" / "node.py"),
            "node",
            str(EXAMPLES / script),
            *arguments,
            env={"PATH": os.environ["PATH"], **env},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()
