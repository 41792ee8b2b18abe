"""Keeps one process of the stack running: starts it, watches it, starts it again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

import nats.errors
import nats.js.errors
import psutil

from mainspring_client.stack.component import Component, ComponentFailed, Running, kill_group, start
from mainspring_client.stack.folder import rotate
from mainspring_client.stack.services import Readyz
from mainspring_client.stack.state import Health, ProcessState
from mainspring_svckit.errors import MainspringError

log = logging.getLogger("mainspring.stack")

_FIRST_POLL_S = 0.15
_POLL_S = 5.0
_UNREADY_POLL_S = 1.0


class Backoff:
    """How long to wait before the next start, and whether the process counts as failing."""

    FIRST_S, LONGEST_S = 0.5, 30.0
    HEALTHY_AFTER_S = 60.0
    WINDOW_S, FAILURES = 120.0, 5

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._next_s = self.FIRST_S
        self._ends: deque[float] = deque(maxlen=self.FAILURES)

    @property
    def failing(self) -> bool:
        """Whether it ended five times within two minutes."""
        return len(self._ends) == self.FAILURES and self._now() - self._ends[0] <= self.WINDOW_S

    def ended(self, healthy_s: float) -> float:
        """Counts an end, after `healthy_s` seconds of readiness; returns the wait in seconds."""
        if healthy_s >= self.HEALTHY_AFTER_S:
            self._next_s = self.FIRST_S
            self._ends.clear()
        self._ends.append(self._now())
        wait_s, self._next_s = self._next_s, min(self.LONGEST_S, self._next_s * 2)
        return wait_s


class Supervised:
    """One process, for as long as the stack is up."""

    def __init__(
        self,
        state: ProcessState,
        make: Callable[[], Awaitable[Component]],
        changed: Callable[[str], None],
        when_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Takes what to run.

        Args:
            state: Kept true here, written to disk by others.
            make: Says how to run it; called before each start.
            changed: Called after each change of `state`, with a notice for people or an empty text.
            when_up: Called each time the process has become ready, before it counts as ready.
        """
        self.state = state
        self._make, self._changed, self._when_up = make, changed, when_up
        self._backoff = Backoff()
        self._running: Running | None = None
        self._stopping = asyncio.Event()
        self.first_ready = asyncio.Event()

    async def run(self) -> None:
        """Keeps it running until `stop`."""
        while not self._stopping.is_set():
            healthy_s = 0.0
            try:
                component = await self._make()
                rotate(component.log)
                running = self._running = await start(component)
                if self._stopping.is_set():
                    await running.stop()
                    return
                self._set(Health.STARTING, pid=running.pid)
                healthy_s = await self._follow(running)
                ended = _how(running.returncode)
                kill_group(running.pid)  # What it started must not outlive it.
                self._running = None
            except (ComponentFailed, OSError) as err:
                ended = f"could not be started: {err}"
            except Exception as err:
                # A defect here must not leave a part of the stack unwatched.
                log.exception("watching %s failed", self.state.name)
                ended = f"could not be watched: {type(err).__name__}: {err}"
                if self._running is not None:
                    await self._running.stop()
            if self._stopping.is_set():
                return
            wait_s = self._backoff.ended(healthy_s)
            self.state.restarts += 1
            self._set(
                Health.FAILING if self._backoff.failing else Health.RESTARTING,
                f"{self.state.name} {ended}; starting it again in {wait_s:g} s",
                detail=ended,
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()

    async def stop(self) -> None:
        """Stops it within its bounds; safe at any time."""
        self._stopping.set()
        if self._running is not None:
            await self._running.stop()
        self._set(Health.STOPPED, detail="")

    async def _follow(self, running: Running) -> float:
        """Watches a process until it ends; returns for how many seconds it had been ready without a break."""
        exited = asyncio.ensure_future(running.process.wait())
        ready_since: float | None = None
        was_up = False
        try:
            while True:
                ready = await running.component.ready() and not exited.done()
                if ready and not was_up and not self._stopping.is_set():
                    ready = was_up = await self._bring_up()
                ready_since = (ready_since or time.monotonic()) if ready else None
                self._note_readiness(running, ready)
                wait_s = _POLL_S if ready else _UNREADY_POLL_S if was_up else self._first_poll_s(running)
                done, _ = await asyncio.wait({exited}, timeout=wait_s)
                if done:
                    return time.monotonic() - ready_since if ready_since is not None else 0.0
        finally:
            exited.cancel()

    async def _bring_up(self) -> bool:
        if self._when_up is None:
            return True
        try:
            await self._when_up()
        except (MainspringError, nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as err:
            self.state.detail = f"is up, but could not be set up: {type(err).__name__}: {err}"
            log.warning("%s %s", self.state.name, self.state.detail)
            return False
        return True

    def _note_readiness(self, running: Running, ready: bool) -> None:
        before = self.state.health
        if self._stopping.is_set():
            return
        if ready:
            if before is not Health.READY:
                again = before is Health.UNREADY or self.state.restarts > 0
                self._set(Health.READY, f"{self.state.name} is ready again" if again else "", detail="")
            self.first_ready.set()
            return
        probe = running.component.ready
        detail = probe.detail if isinstance(probe, Readyz) else self.state.detail
        if before is Health.READY:
            self._set(Health.UNREADY, f"{self.state.name} is not ready: {detail or 'no answer'}", detail=detail)
        elif detail != self.state.detail:
            self._set(before, detail=detail)

    def _first_poll_s(self, running: Running) -> float:
        young = time.monotonic() - running.started_at < running.component.ready_timeout_s
        return _FIRST_POLL_S if young else _UNREADY_POLL_S

    def _set(self, health: Health, notice: str = "", *, pid: int | None = None, detail: str | None = None) -> None:
        state = self.state
        state.health = health
        if pid is not None:
            state.pid = pid
            with contextlib.suppress(psutil.Error):
                state.create_time = psutil.Process(pid).create_time()
        elif health in {Health.RESTARTING, Health.FAILING, Health.STOPPED}:
            state.pid, state.create_time = 0, 0.0
        if detail is not None:
            state.detail = detail
        self._changed(notice)


def _how(returncode: int | None) -> str:
    if returncode is None:
        return "ended"
    return f"was killed by signal {-returncode}" if returncode < 0 else f"ended with status {returncode}"
