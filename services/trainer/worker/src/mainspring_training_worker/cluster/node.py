"""What runs on a node of the cluster: it takes files, runs the worker as its child, and hands out what that makes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

import psutil
import ray

from mainspring_training_worker.cluster.shipping import relocated
from mainspring_training_worker.process import KILLED

CHUNK = 16 << 20
_PREFIX = "mainspring-training-"
_HEARD_S = 0.5
_TAIL = 8 << 10
_MAX_LINE = 1 << 20
_CACHE_BYTES = 50 << 30


@dataclass(frozen=True)
class Said:
    """What a worker has told since it was asked last.

    Attributes:
        lines: Whole lines.
        status: Its exit status, once it has ended and all lines are out.
        errors: The end of what it has printed, then.
        cpu_s: Processor time that it has used.
        memory_bytes: Memory that it holds.
    """

    lines: list[bytes] = field(default_factory=list[bytes])
    status: int | None = None
    errors: str = ""
    cpu_s: float = 0.0
    memory_bytes: int = 0


class Node:
    """One worker of a run; an actor whose calls may overlap. When it ends, its child does too."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        """Makes its folder, and removes those of others that were killed.

        Args:
            limits: `file_bytes` and `memory_bytes` that the worker may take; 0 is no limit.
        """
        base = Path(os.environ.get("MAINSPRING_NODE_FOLDER") or tempfile.gettempdir()) / f"mainspring-{os.getuid()}"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        if base.stat().st_uid != os.getuid():
            raise PermissionError(f"{base} belongs to somebody else; set MAINSPRING_NODE_FOLDER")
        for left in base.glob(f"{_PREFIX}*"):
            if not psutil.pid_exists(int(left.name.removeprefix(_PREFIX).split("-")[0])):
                shutil.rmtree(left, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
        self._cache, self._limits = base / "files", limits
        self._cache.mkdir(exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._tail: deque[bytes] = deque(maxlen=4)
        self._drained = threading.Event()
        self._cpu_s, self._memory_bytes = 0.0, 0

    def hello(self) -> dict[str, str]:
        """What it is: the digest of its code, and the node's name."""
        return {"code": code_digest(), "node": socket.gethostname()}

    def address(self) -> str:
        """An address on this node that was free a moment ago."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{host}:{probe.getsockname()[1]}"

    def missing(self, files: Mapping[str, str]) -> list[str]:
        """Puts the files that it has at their paths; returns the digests of those that it lacks.

        Args:
            files: Digests by path in its folder.
        """
        lacking: list[str] = []
        self._prune(set(files.values()))
        for name, digest in files.items():
            cached, target = self._cache / digest, self._folder / name
            if not _is(cached, digest):
                lacking.append(digest)
                continue
            os.utime(cached)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(cached, target)
        return lacking

    def receive(self, digest: str, chunk: bytes, *, last: bool) -> None:
        """Takes the next part of a file.

        Raises:
            ValueError: The whole is not what its digest says.
        """
        partial = self._folder / f"{digest}.partial"
        with partial.open("ab") as file:
            file.write(chunk)
        if not last:
            return
        if not _is(partial, digest):
            partial.unlink()
            raise ValueError(f"file {digest} came in damaged")
        partial.rename(self._cache / digest)

    def start(self, spec: Mapping[str, Any]) -> None:
        """Starts the worker; paths of its specification are relative to this folder."""
        output = self._folder / "output"
        output.mkdir()
        reading, writing = os.pipe()
        path = self._folder / "spec.json"
        placed = relocated(spec, lambda name: str(self._folder / name))
        path.write_text(
            json.dumps({**placed, "output": str(output), "progress_fd": writing, "parent_pid": os.getpid()})
        )
        # The environment of the actor is not handed on: the cluster's token stands there.
        given = {key: os.environ[key] for key in ("PATH", "LANG", "GLOO_SOCKET_IFNAME") if key in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mainspring_training_worker", str(path)],
            cwd=self._folder,
            env={**given, "HOME": str(self._folder), "TMPDIR": str(self._folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        self._bound(self._process.pid)
        assert self._process.stdout is not None
        threading.Thread(target=self._drain, args=(self._process.stdout,), daemon=True).start()
        threading.Thread(target=self._hear, args=(os.fdopen(reading, "rb"),), daemon=True).start()

    def told(self) -> Said:
        """What the worker has told since the last call, after waiting for it a while."""
        lines: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            line = self._lines.get(timeout=_HEARD_S)
            while line is not None:
                lines.append(line)
                line = self._lines.get_nowait()
            return self._ended(lines)
        self._measure()
        return Said(lines, cpu_s=self._cpu_s, memory_bytes=self._memory_bytes)

    def take(self, name: str, offset: int) -> bytes:
        """A part of a file that the worker has made; the file is removed when all of it is out."""
        path = (self._folder / "output" / name).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise ValueError(f"{name!r} is no file of this run")
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(CHUNK)
        if len(chunk) < CHUNK:
            path.unlink()
        return chunk

    def stop(self) -> None:
        """Asks the worker to write a checkpoint and end."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def end(self) -> None:
        """Leaves nothing behind."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _prune(self, keep: set[str]) -> None:
        """Forgets what was used longest ago; another worker of this node may be quicker."""
        held = sorted((p for p in self._cache.iterdir() if p.name not in keep), key=_used_at)
        total = sum(_size(path) for path in self._cache.iterdir())
        for path in held:
            if total <= _CACHE_BYTES:
                return
            total -= _size(path)
            path.unlink(missing_ok=True)

    def _bound(self, pid: int) -> None:
        bounds = {resource.RLIMIT_CORE: 0}
        for kind, name in ((resource.RLIMIT_FSIZE, "file_bytes"), (resource.RLIMIT_DATA, "memory_bytes")):
            if self._limits[name]:
                bounds[kind] = self._limits[name]
        with contextlib.suppress(ProcessLookupError):
            for kind, value in bounds.items():
                resource.prlimit(pid, kind, (value, value))

    def _hear(self, lines: BinaryIO) -> None:
        with lines:
            while line := lines.readline(_MAX_LINE):
                self._lines.put(line)
        self._lines.put(None)

    def _drain(self, output: IO[bytes]) -> None:
        while chunk := os.read(output.fileno(), _TAIL):
            self._tail.append(chunk)
        self._drained.set()

    def _ended(self, lines: list[bytes]) -> Said:
        assert self._process is not None
        self._measure()
        status = self._process.wait()
        self._drained.wait(_HEARD_S)
        errors = b"".join(self._tail).decode(errors="replace")
        return Said(lines, KILLED if status == -signal.SIGKILL else status, errors, self._cpu_s, 0)

    def _measure(self) -> None:
        assert self._process is not None
        with contextlib.suppress(psutil.Error):
            child = psutil.Process(self._process.pid)
            times = child.cpu_times()
            self._cpu_s, self._memory_bytes = times.user + times.system, child.memory_info().rss


def code_digest() -> str:
    """Digest of this package's sources: both ends of a run must be of one release."""
    root = Path(__file__).parents[1]
    hasher = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        hasher.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return hasher.hexdigest()


def _is(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def _used_at(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
