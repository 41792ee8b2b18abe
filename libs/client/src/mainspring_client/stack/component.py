"""One process of the stack: how to start it, when it is ready, how to stop it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

Probe = Callable[[], Awaitable[bool]]
_POLL_S = 0.05


class ComponentFailed(Exception):
    """A process ended, or was not ready in time; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Component:
    """What to run.

    Attributes:
        name: For people and for the log file.
        command: Program and arguments; never a shell string.
        env: The whole environment.
        log: File that takes the output, appended.
        ready: Whether it can do its work now.
        cwd: Folder to run in.
        uid: User to run as; None for ours.
        stop_signal: What asks it to stop.
        stop_timeout_s: Longest wait for that, before it is killed.
        ready_timeout_s: Longest wait for `ready`.
        nice: Lower priority for processes that must not be in the way.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    ready: Probe
    cwd: Path | None = None
    uid: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 20.0
    ready_timeout_s: float = 60.0
    nice: int = 0


@dataclass
class Running:
    """A started component."""

    component: Component
    process: asyncio.subprocess.Process
    started_at: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        """Process id; also the id of its process group."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self.process.returncode

    async def wait_ready(self) -> None:
        """Waits until it can do its work.

        Raises:
            ComponentFailed: It ended, or was not ready in time.
        """
        deadline = time.monotonic() + self.component.ready_timeout_s
        while not await self.component.ready():
            if self.returncode is not None:
                raise ComponentFailed(f"{self.component.name} ended with status {self.returncode}\n{self.last_lines()}")
            if time.monotonic() > deadline:
                waited = f"{self.component.ready_timeout_s:.0f} s"
                raise ComponentFailed(f"{self.component.name} was not ready after {waited}\n{self.last_lines()}")
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Asks it to stop, waits, then kills whatever is left of its process group."""
        if self.returncode is None:
            self.process.send_signal(self.component.stop_signal)
            try:
                async with asyncio.timeout(self.component.stop_timeout_s):
                    await self.process.wait()
            except TimeoutError:
                pass
        kill_group(self.pid)
        await self.process.wait()

    def last_lines(self, count: int = 15) -> str:
        """The end of its log, for error messages."""
        try:
            lines = self.component.log.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-count:])


async def start(component: Component) -> Running:
    """Starts a component in a process group of its own."""
    component.log.parent.mkdir(parents=True, exist_ok=True)
    # Logs may quote what people asked; they are nobody else's business.
    log = os.open(component.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = await asyncio.create_subprocess_exec(
            *component.command,
            env=dict(component.env),
            cwd=component.cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=component.uid,
            group=component.uid,
            extra_groups=[] if component.uid is not None else None,
        )
    finally:
        os.close(log)
    if component.nice:
        os.setpriority(os.PRIO_PROCESS, process.pid, component.nice)
    return Running(component, process)


def kill_group(pgid: int) -> None:
    """Kills every process of a group that we started."""
    try:
        os.killpg(pgid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def same_process(pid: int, create_time: float) -> bool:
    """Whether `pid` is still the process that was started at `create_time` (seconds since the epoch), and not a
    zombie.
    """
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - create_time) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


async def port_open(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
