"""Ends what a stack has left running after its supervisor was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

import psutil

from mainspring_client.stack.folder import DataFolder
from mainspring_client.stack.services import MARK
from mainspring_client.stack.state import ProcessState, StackState

_ORDER_LAST = ("triton", "postgres", "nats")
_SIGNALS = {"postgres": signal.SIGINT}
_PATIENCE_S = {"postgres": 15.0}
_DEFAULT_PATIENCE_S = 8.0


def end(folder: DataFolder, state: StackState) -> list[str]:
    """Stops every process of this data folder in an orderly way where possible; returns the names of those that it
    found.

    Takes at most about 45 seconds. A process is ours when `state` recorded its id and start time, when one of those
    started it, or when it carries this folder in its environment.
    """
    known = [process for process in state.processes.values() if process.alive]
    found = [process.name for process in known]
    rank = {name: index + 1 for index, name in enumerate(_ORDER_LAST)}
    for step in range(len(_ORDER_LAST) + 1):
        _stop([process for process in known if rank.get(process.name, 0) == step])
    strays = marked(folder)
    found += [f"process {process.pid}" for process in strays]
    _kill(strays)
    return found


def marked(folder: DataFolder) -> list[psutil.Process]:
    """Processes that carry this data folder in their environment; never this process."""
    mark, ours = str(folder.root), list[psutil.Process]()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                ours.append(process)
        except (psutil.Error, OSError):
            continue  # Somebody else's, or gone meanwhile.
    return ours


def _stop(states: Iterable[ProcessState]) -> None:
    """Asks processes to stop, waits for them together, then kills them with all that they started."""
    roots: list[psutil.Process] = []
    families: list[psutil.Process] = []
    patience_s = 0.0
    for state in states:
        try:
            process = psutil.Process(state.pid)
            families += [process, *process.children(recursive=True)]
            process.send_signal(_SIGNALS.get(state.name, signal.SIGTERM))
            # A stopped process does not hear anything else.
            process.send_signal(signal.SIGCONT)
        except psutil.Error:
            continue
        roots.append(process)
        patience_s = max(patience_s, _PATIENCE_S.get(state.name, _DEFAULT_PATIENCE_S))
    _wait(roots, patience_s)
    _kill(families)


def _kill(processes: Iterable[psutil.Process]) -> None:
    killed: list[psutil.Process] = []
    for process in processes:
        try:
            process.kill()  # psutil refuses when the id belongs to another process by now.
        except psutil.Error:
            continue
        killed.append(process)
    _wait(killed, 5)


def _wait(processes: Iterable[psutil.Process], timeout_s: float) -> None:
    """Waits until all have ended, as far as the time goes; a zombie has ended, whether or not anybody reaps it."""
    ends = time.monotonic() + timeout_s
    while any(_runs(process) for process in processes) and time.monotonic() < ends:
        time.sleep(0.05)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
