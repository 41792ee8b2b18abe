"""Starts, stops and asks after a local stack from outside; what the commands `up`, `down`, `status` and `logs` use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mainspring_client.stack import leftovers
from mainspring_client.stack.folder import DataFolder, rotate
from mainspring_client.stack.options import Options
from mainspring_client.stack.state import Health, Phase, StackState
from mainspring_svckit.errors import PreconditionFailed, Unavailable

_POLL_S = 0.1
_LOCKED = 3
STOP_BOUND_S = 150.0


def launch(folder: DataFolder, options: Options) -> subprocess.Popen[bytes]:
    """Starts a supervisor that lives on when this process ends; `follow` tells what becomes of it."""
    folder.prepare()
    path = folder.log_of("supervisor")
    rotate(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mainspring_client.stack.supervisor", str(folder.root)],
            stdin=subprocess.PIPE,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(json.dumps(asdict(options)).encode())
    return process


def follow(folder: DataFolder, launched: subprocess.Popen[bytes] | None, timeout_s: float) -> Iterator[StackState]:
    """The stack's state after each change until everything is ready.

    Args:
        folder: The data folder.
        launched: The supervisor that was just started; None for one that runs already.
        timeout_s: Longest wait.

    Raises:
        Unavailable: STACK_NOT_STARTED, the supervisor ended; STACK_NOT_READY, something was not ready in time or keeps
            failing. The message shows the end of the log that tells more.
    """
    ends, shown = time.monotonic() + timeout_s, ""
    appeared = launched is None
    while True:
        ended = launched is not None and launched.poll() is not None
        if ended and launched is not None and launched.returncode == _LOCKED:
            launched, ended = None, False  # Somebody else was quicker; theirs is as good.
        state = StackState.load(folder.state_file)
        ours = state.supervisor_pid == launched.pid if launched is not None else state.supervised
        appeared = appeared or ours
        if ended or (launched is None and appeared and not ours):
            tail = last_lines(folder.log_of("supervisor"))
            raise Unavailable("STACK_NOT_STARTED", f"the supervisor ended; the end of its log:\n{tail}")
        if ours and (seen := json.dumps(asdict(state))) != shown:
            shown = seen
            yield state
        if ours and state.ready:
            return
        # What fails again and again is told at once; the supervisor tries on.
        failing = ours and any(process.health is Health.FAILING for process in state.processes.values())
        if failing or time.monotonic() > ends:
            raise _not_ready(folder, state, timeout_s - (ends - time.monotonic()))
        time.sleep(_POLL_S)


def stop(folder: DataFolder) -> Iterator[StackState]:
    """Stops the stack, with or without a living supervisor, and gives its state after each change.

    Nothing that belongs to the stack runs when the iterator is exhausted; that takes at most `STOP_BOUND_S` and some
    seconds.
    """
    state = StackState.load(folder.state_file)
    if state.supervised:
        os.kill(state.supervisor_pid, signal.SIGTERM)
        ends, shown = time.monotonic() + STOP_BOUND_S, ""
        while state.supervised:
            if (seen := json.dumps(asdict(state))) != shown:
                shown = seen
                yield state
            if time.monotonic() > ends:
                psutil.Process(state.supervisor_pid).kill()
                break
            time.sleep(_POLL_S)
            state = StackState.load(folder.state_file)
    found = leftovers.end(folder, state)
    if found:
        state.add_notice(f"ended what was left running: {', '.join(found)}")
    if folder.state_file.exists():
        for process in state.processes.values():
            process.health, process.pid, process.create_time = Health.STOPPED, 0, 0.0
        state.phase, state.supervisor_pid = Phase.STOPPED, 0
        state.save(folder.state_file)
    yield state


@dataclass(frozen=True)
class Usage:
    """Memory of one process with all that it started, shared pages counted in part."""

    memory_bytes: int
    processes: int


def usage(pid: int) -> Usage:
    """What a process uses now; nothing when it is gone."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return Usage(0, 0)
    return Usage(sum(_memory_bytes(process) for process in family), len(family))


def last_lines(path: Path, count: int = 15) -> str:
    """The end of a log."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 256 * 1024))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(lines[-count:])


def require_running(folder: DataFolder) -> StackState:
    """The state of a stack that runs.

    Raises:
        PreconditionFailed: STACK_NOT_RUNNING.
    """
    state = StackState.load(folder.state_file)
    if not state.supervised:
        raise PreconditionFailed("STACK_NOT_RUNNING", f"no stack runs in {folder.root}; start it with 'mainspring up'")
    return state


def _memory_bytes(process: psutil.Process) -> int:
    try:
        # The kernel's own sum; psutil would read every mapping.
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _not_ready(folder: DataFolder, state: StackState, waited_s: float) -> Unavailable:
    late = [process for process in state.processes.values() if process.health is not Health.READY]
    lines = [f"not ready after {waited_s:.0f} s: {', '.join(process.name for process in late) or 'the supervisor'}"]
    for process in sorted(late, key=lambda process: process.health is not Health.FAILING)[:3]:
        lines.append(f"--- {process.name} is {process.health}{': ' + process.detail if process.detail else ''}")
        lines.append(last_lines(folder.log_of(process.name)))
    return Unavailable("STACK_NOT_READY", "\n".join(lines))
