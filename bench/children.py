"""Child processes of a benchmark: their lines as JSON, ended with the block that started them, and all they started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from bench.machine import ROOT

_LINE_BYTES = 1 << 26
_LAST_WORDS = 3000


class ChildFailed(Exception):
    """A child process ended as it should not; the message holds its last words."""


class Child:
    """A child that takes one JSON value a line on stdin and answers with one a line on stdout."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self._log = process, log

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, value: Any) -> None:
        """Writes one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")

    async def receive(self, within_s: float) -> Any:
        """Reads one line.

        Raises:
            ChildFailed: It ended, or said nothing in time.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError as err:
            raise ChildFailed(f"process {self.pid} said nothing for {within_s:.0f} s: {self.last_words}") from err
        if not line:
            raise ChildFailed(f"process {self.pid} ended: {self.last_words}")
        return json.loads(line)

    @property
    def last_words(self) -> str:
        """The end of what it wrote on stderr."""
        return self._log.read_text(errors="replace")[-_LAST_WORDS:]


@asynccontextmanager
async def child(log: Path, *command: str | Path, env: Mapping[str, str] | None = None) -> AsyncIterator[Child]:
    """A child in a process group of its own, which is killed when the block is left."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            limit=_LINE_BYTES,
        )
    try:
        yield Child(process, log)
    finally:
        await _end(process)


async def run(
    *command: str | Path, within_s: float, env: Mapping[str, str] | None = None, stdin: bytes = b"", check: bool = True
) -> str:
    """Runs a command to its end and returns what it printed; whatever happens, nothing of its process group is left
    but what put itself into a session of its own, as a stack's supervisor does.

    Raises:
        ChildFailed: It ended with another status than 0 (unless `check` is false), or not in time.
    """
    shown = " ".join(map(str, command[:4]))
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(within_s):
            out, err = await process.communicate(stdin)
    except TimeoutError as failure:
        raise ChildFailed(f"{shown} did not end within {within_s:.0f} s") from failure
    finally:
        await _end(process)
    if check and process.returncode != 0:
        told = err.decode(errors="replace")[-_LAST_WORDS:]
        raise ChildFailed(f"{shown} ended with status {process.returncode}: {told}")
    return out.decode()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
