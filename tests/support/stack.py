"""The whole stack as its users have it: started and stopped by the command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

from mainspring_client.client import Mainspring
from mainspring_testkit.waiting import eventually

COMMAND = Path(sys.executable).parent / "mainspring"


class Stack:
    """A running stack, seen from outside: what the command prints, and process ids to send signals to."""

    def __init__(self, data: Path, models: Path) -> None:
        self.data, self.models = data, models

    async def run(self, *arguments: str, check: bool = True) -> str:
        """Runs `mainspring` on this stack; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            *arguments,
            env={**os.environ, "MAINSPRING_DATA": str(self.data)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert not check or process.returncode == 0, f"mainspring {' '.join(arguments)}: {err.decode()[-3000:]}"
        return out.decode()

    async def up(self) -> None:
        await self.run("up", "--import-root", str(self.models))

    async def down(self) -> None:
        await self.run("down")

    async def status(self) -> dict[str, Any]:
        """What `mainspring status --json` prints."""
        status: dict[str, Any] = json.loads(await self.run("status", "--json", check=False))
        return status

    @property
    def state(self) -> dict[str, Any]:
        """What the supervisor last wrote down; cheaper than `status`."""
        state: dict[str, Any] = json.loads((self.data / "state.json").read_text())
        return state

    @property
    def token(self) -> str:
        return (self.data / "admin-token").read_text().strip()

    def client(self) -> Mainspring:
        """A new client; close it."""
        return Mainspring.connect(data=self.data)

    async def kill(self, name: str) -> None:
        """Kills a process of the stack as the kernel would, and returns when another is there."""
        before = self.state["processes"][name]
        os.kill(before["pid"], signal.SIGKILL)

        async def another() -> bool:
            pid: int = self.state["processes"][name]["pid"]
            return pid not in {0, before["pid"]}

        await eventually(another, within_s=60, what=f"another {name}")

    async def ready(self, within_s: float = 90) -> None:
        """Waits until every process is ready."""

        async def all_ready() -> bool:
            late = {n: p["health"] for n, p in self.state["processes"].items() if p["health"] != "ready"}
            assert not late, late
            return True

        await eventually(all_ready, within_s=within_s, what="every process ready")

    def processes(self) -> list[str]:
        """Everything that runs now and belongs to the stack."""
        found: list[str] = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("MAINSPRING_STACK") == str(self.data):
                    found.append(" ".join(process.cmdline()))
            except (psutil.Error, OSError):
                continue
        return found
