"""Replicas forked from a process that has loaded their module already, which takes a second of processor time less.

    python -m mainspring_testkit.nursery MODULE     what `Nursery` starts; standard input is its socket

Each replica is a process with the environment, output, session and exit status of one that `python -m MODULE` starts.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

_MESSAGE_BYTES = 1 << 17


class Replica:
    """A forked process."""

    def __init__(self, pid: int) -> None:
        """Takes its process id."""
        self.pid = pid
        self.status: Future[int] = Future()

    @property
    def returncode(self) -> int | None:
        """Its exit status once it ended; negative for the signal that killed it."""
        return self.status.result() if self.status.done() else None

    def terminate(self) -> None:
        """Sends SIGTERM."""
        if not self.status.done():
            os.kill(self.pid, signal.SIGTERM)

    async def wait(self) -> int:
        """Its exit status, once it ended."""
        return await asyncio.shield(asyncio.wrap_future(self.status))


class Nursery:
    """A process that has loaded a module, and forks replicas that run its `main`; it ends with its socket."""

    def __init__(self, module: str, python_path: str = "") -> None:
        """Starts it; it loads the module meanwhile, and looks for more packages where `python_path` says."""
        self._replicas: dict[int, Replica] = {}
        self._forked: Future[Replica] = Future()
        self._one_at_a_time = asyncio.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "mainspring_testkit.nursery", module]
            os.posix_spawn(
                sys.executable,
                command,
                {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | {"PYTHONPATH": python_path},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
            )
        threading.Thread(target=self._listen, name=f"nursery of {module}", daemon=True).start()

    async def fork(self, env: Mapping[str, str], log: Path) -> Replica:
        """A new replica.

        Raises:
            RuntimeError: The module cannot be loaded; what Python says of it stands on standard error.
        """
        async with self._one_at_a_time:
            self._forked = Future()
            self._socket.send(json.dumps({"env": dict(env), "log": str(log)}).encode())
            return await asyncio.wrap_future(self._forked)

    def _listen(self) -> None:
        while told := self._socket.recv(_MESSAGE_BYTES):
            said: dict[str, int] = json.loads(told)
            if "status" in said:
                self._replicas.pop(said["pid"]).status.set_result(said["status"])
            else:
                replica = self._replicas[said["pid"]] = Replica(said["pid"])
                self._forked.set_result(replica)
        if not self._forked.done():
            self._forked.set_exception(RuntimeError("the nursery ended"))


class _Forks:
    """The nursery's own side."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._pids: dict[int, int] = {}

    def serve(self) -> bool:
        """Forks as it is asked; returns true in a forked process, and false when nobody will ask any more."""
        while True:
            for ready, _ in self._poll.poll():
                if ready in self._pids:
                    self._tell_end(ready)
                elif not (asked := self._control.recv(_MESSAGE_BYTES)):
                    return False
                elif self._fork(json.loads(asked)):
                    return True

    def _fork(self, asked: dict[str, Any]) -> bool:
        pid = os.fork()
        if pid == 0:
            self._begin(asked["env"], asked["log"])
            return True
        pidfd = os.pidfd_open(pid)
        self._pids[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._tell(pid=pid)
        return False

    def _begin(self, env: Mapping[str, str], log: str) -> None:
        os.setsid()
        self._control.close()
        for pidfd in self._pids:
            os.close(pidfd)
        for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
            opened = os.open(path, flags, 0o644)
            os.dup2(opened, number)
            os.close(opened)
        os.dup2(1, 2)
        os.environ.clear()
        os.environ.update(env)

    def _tell_end(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        os.close(pidfd)
        pid = self._pids.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        self._tell(pid=pid, status=os.waitstatus_to_exitcode(status))

    def _tell(self, **what: int) -> None:
        self._control.send(json.dumps(what).encode())


def main() -> None:
    """The nursery; and, in each process that it forks, the replica."""
    module = sys.argv.pop()
    control = socket.socket(fileno=os.dup(0))
    loaded = importlib.import_module(module)
    gc.freeze()  # What is loaded stays shared with the replicas.
    if _Forks(control).serve():
        loaded.main()


if __name__ == "__main__":
    main()
