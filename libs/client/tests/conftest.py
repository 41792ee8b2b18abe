"""The real command, and a local stack in a folder of its own with two tiny services."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mainspring_client.stack import leftovers
from mainspring_client.stack.folder import DataFolder
from mainspring_client.stack.state import Health, StackState
from mainspring_testkit.servers import scratch_folder
from mainspring_testkit.waiting import eventually

COMMAND = Path(sys.executable).parent / "mainspring"
SERVICE = """
import http.server, os, pathlib, signal, subprocess, sys
folder = pathlib.Path.cwd()
if (folder / "fail").exists():
    sys.exit("this service was told to fail")
if (folder / "child").exists():
    # A child that has left the process group, as a training run does.
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
assert pathlib.Path(os.environ["MAINSPRING_DATABASE_URL_FILE"]).read_text().startswith("postgresql://")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = not (folder / "unready").exists()
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b'{"failing": {}}' if ready else b'{"failing": {"model": "not loaded"}}')

    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("serving")
http.server.HTTPServer(("127.0.0.1", int(os.environ["MAINSPRING_OPS_PORT"])), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def mainspring(*arguments: str, **env: str) -> Done:
    """Runs the command."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *arguments,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


class Stack:
    """A stack with NATS, Postgres, and the services `alpha` and `beta`."""

    def __init__(self, folder: Path) -> None:
        self.folder = DataFolder.at(folder / "data")
        script = folder / "service.py"
        script.write_text(SERVICE)
        self.table = folder / "table.json"
        rows = [{"name": name, "area": name, "command": [sys.executable, str(script)]} for name in ("alpha", "beta")]
        self.table.write_text(json.dumps(rows))

    async def run(self, *arguments: str) -> Done:
        return await mainspring(*arguments, MAINSPRING_DATA=str(self.folder.root))

    async def up(self, *arguments: str) -> Done:
        return await self.run("up", "--no-triton", "--table", str(self.table), "--timeout", "60", *arguments)

    @property
    def state(self) -> StackState:
        return StackState.load(self.folder.state_file)

    def own(self, service: str) -> Path:
        """A service's working folder; files there steer it."""
        folder = self.folder.component("services") / service
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    async def in_the_foreground(self) -> asyncio.subprocess.Process:
        """Starts it as containers do."""
        return await asyncio.create_subprocess_exec(
            COMMAND,
            *("up", "--foreground", "--no-triton", "--table", str(self.table), "--data", str(self.folder.root)),
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async def restarted(self, name: str, pid: int) -> int:
        """Waits until a process is ready under another id; returns that."""

        async def ready() -> bool:
            process = self.state.processes[name]
            return process.pid not in {0, pid} and process.health is Health.READY

        await eventually(ready, within_s=30, what=f"{name} to be started again")
        return self.state.processes[name].pid

    def processes(self) -> list[str]:
        """Everything that belongs to this stack and runs now."""
        recorded = [process.name for process in self.state.processes.values() if process.alive]
        supervisor = ["supervisor"] if self.state.supervised else []
        return [*supervisor, *recorded, *(str(process.pid) for process in leftovers.marked(self.folder))]


Command = Callable[..., Awaitable[Done]]


@pytest.fixture
def command() -> Command:
    """Runs the command: `await command("models", "list", MAINSPRING_TOKEN=...)`."""
    return mainspring


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    """A stack that is not started yet, and is stopped and looked after at the end."""
    # Not in pytest's own temporary folder: for root, Postgres runs as somebody who may not pass through that.
    async with scratch_folder("stack") as folder:
        made = Stack(folder)
        try:
            yield made
        finally:
            await made.run("down")
            assert made.processes() == []
