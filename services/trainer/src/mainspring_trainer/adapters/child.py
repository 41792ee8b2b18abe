"""Training processes: started with the least they need, watched, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring_svckit.errors import InsufficientStorage, MainspringError, PreconditionFailed, Unavailable
from mainspring_svckit.logs import get_logger
from mainspring_trainer.adapters.cluster import MODULE as CLUSTER_MODULE
from mainspring_trainer.adapters.cluster import Cluster, used_elsewhere
from mainspring_trainer.adapters.environment import describe
from mainspring_trainer.adapters.meter import SAMPLE_S, Meter, meter_of
from mainspring_trainer.application.ports import Told
from mainspring_trainer.domain.tracking import Consumption, Environment

MODULE = "mainspring_training_worker"
# The last three are where a GPU's driver is, which GPUs this process may use, and how they are counted.
_HANDED_ON = ("PATH", "LANG", "MAINSPRING_CRASH_AT", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_LINE_BYTES = 1 << 20
_TAIL_CHUNKS = 8
_CHUNK = 8 << 10
_LAST_WORDS_S = 2.0
log = get_logger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a training process may do to its machine.

    Attributes:
        silence_s: Longest time without a line; then it hangs.
        output_bytes: Most that it may write to its standard output and error together.
        file_bytes: Largest file that it may write.
        memory_bytes: Most memory for its data; 0 for no limit.
        stop_s: Longest time to write a checkpoint when asked to stop.
        processes: Most processes that it may be, all that it has started included.
    """

    silence_s: float
    output_bytes: int
    file_bytes: int
    memory_bytes: int
    stop_s: float
    processes: int = 512


class ChildProcesses:
    """`Children` by way of `python -m mainspring_training_worker`, in an environment with torch; with a cluster, the
    process sends the work there and follows it.
    """

    def __init__(self, python: str, scratch: Path | None, limits: Limits, cluster: Cluster | None = None) -> None:
        """Takes how to run them.

        Args:
            python: Interpreter of the environment that has the worker.
            scratch: Folder for a run's files while it runs; the system's when None.
            limits: What a process may do.
            cluster: Where the work is done; None for this machine.
        """
        self._python, self._scratch, self._limits, self._cluster = python, scratch, limits, cluster
        self._environment: asyncio.Task[Environment] | None = None
        self._spare: ChildProcess | None = None
        self._vacant = asyncio.Event()

    async def environment(self) -> Environment:
        # Asked once: who changes it starts the trainer anew.
        if self._environment is None:
            self._environment = asyncio.create_task(describe(self._python, MODULE))
        return await asyncio.shield(self._environment)

    async def keep_spare(self, threads: int) -> None:
        """Has a process at hand that holds its libraries in memory already, which takes longer than all else before a
        first step; until this is cancelled.

        Args:
            threads: Of a run; they must be known before torch is loaded.
        """
        try:
            while True:
                if self._spare is None:
                    self._spare = await self._made("spare", ahead=threads)
                self._vacant.clear()
                await self._vacant.wait()
        except PreconditionFailed as err:
            log.warning("no_spare_process", error=err.message)  # Runs will say the same.
        finally:
            if self._spare is not None:
                await self._spare.end()

    @asynccontextmanager
    async def start(self, name: str, spec: Mapping[str, Any]) -> AsyncIterator[ChildProcess]:
        child, self._spare = self._spare, None
        # A base in 4 bits needs a library that the spare one has kept out.
        if child is not None and (spec.get("adaptation") == "QLORA" or not child.alive):
            await child.end()
            child = None
        child = child or await self._made(name)
        try:
            await child.begin(name, spec)
            yield child
        finally:
            await child.end()
            self._vacant.set()  # Not sooner: the next one would take processors from this one.

    async def _made(self, name: str, ahead: int = 0) -> ChildProcess:
        folder = Path(tempfile.mkdtemp(prefix="mainspring-training-", dir=self._scratch))
        child = ChildProcess(name, folder, self._limits, self._cluster)
        try:
            await child.start(self._python, ahead)
        except BaseException:
            await child.end()
            raise
        return child


class ChildProcess:
    """`Child`: one process in a process group of its own."""

    def __init__(self, name: str, folder: Path, limits: Limits, cluster: Cluster | None = None) -> None:
        self._name, self._folder, self._limits, self._cluster = name, folder, limits, cluster
        self._spec, self._telling = folder / "spec.json", -1
        self._elsewhere = Consumption()
        self._process: asyncio.subprocess.Process | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._lines, self._printed = asyncio.StreamReader(limit=_LINE_BYTES), asyncio.StreamReader()
        self._tail: deque[bytes] = deque(maxlen=_TAIL_CHUNKS)
        self._tasks: list[asyncio.Task[None]] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._meter: Meter | None = None
        self._metering: asyncio.Task[None] | None = None
        self._stopping = self._flooded = self._multiplied = False

    @property
    def output(self) -> Path:
        return self._folder / "output"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self, python: str, ahead: int = 0) -> None:
        """Starts the process, which waits for its specification.

        Args:
            python: Interpreter with the worker.
            ahead: Threads of a run, when it is to load its libraries meanwhile; 0 when it need not.
        """
        self.output.mkdir()
        # Both streams are our own: asyncio would not see the process end while something else holds one of its pipes.
        telling, printing = await self._pipe(self._lines), await self._pipe(self._printed)
        try:
            self._telling = telling
            self._process = await asyncio.create_subprocess_exec(
                python,
                "-m",
                MODULE if self._cluster is None else CLUSTER_MODULE,
                *(["--ahead", str(ahead), str(os.getpid())] if ahead else []),
                str(self._spec),
                cwd=self._folder,
                env=self._environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=printing,
                stderr=printing,
                pass_fds=(telling,),
                start_new_session=True,
            )
        except OSError as err:
            message = f"the training worker cannot be started with {python}: {err.strerror}; set worker_python"
            raise PreconditionFailed("WORKER_NOT_INSTALLED", message) from err
        finally:
            os.close(telling)
            os.close(printing)
        self._yield_to_others()
        self._tasks = [asyncio.create_task(self._drain()), asyncio.create_task(self._reap())]

    async def begin(self, name: str, spec: Mapping[str, Any]) -> None:
        """Gives it its specification; from here on it is watched."""
        self._name, limits, process = name, self._limits, self._running()
        described = {**spec, "output": str(self.output), "progress_fd": self._telling, "parent_pid": os.getpid()}
        if self._cluster is not None:
            described["cluster"] = self._cluster.described(
                file_bytes=limits.file_bytes, memory_bytes=limits.memory_bytes
            )
        self._spec.write_text(json.dumps(described))
        assert process.stdin is not None
        process.stdin.close()  # That is what it waits for.
        self._meter = meter_of(process.pid)
        self._metering = asyncio.create_task(self._watch(self._meter))
        log.info("training_process_started", run=name, pid=process.pid)

    async def told(self) -> AsyncIterator[Told]:
        refusal: MainspringError | None = None
        while line := await self._line():
            told = self._parsed(line)
            if told["type"] == "failed":
                refusal = _refusal(told)
            elif told["type"] == "usage":
                self._elsewhere = used_elsewhere(told, self._elsewhere)
            elif told["type"] != "tick":
                if told["type"] == "plan" and self._meter is not None:
                    self._meter.gpu = str(told.get("gpu", ""))
                yield told
        process = self._running()
        status = await process.wait()
        await asyncio.gather(*self._tasks)
        if refusal is not None:
            raise refusal
        if status != 0 and not self._stopping:
            raise self._death(status)

    async def stop(self) -> None:
        self._stopping = True
        with suppress(ProcessLookupError):
            self._running().terminate()
        self._later(self._limits.stop_s, self._kill)

    def consumed(self) -> Consumption:
        here = self._meter.consumed if self._meter is not None else Consumption()
        return here.beside(self._elsewhere)

    async def end(self) -> None:
        """Kills what is left of the process group and frees everything."""
        if self._metering is not None:
            self._metering.cancel()
            await asyncio.gather(self._metering, return_exceptions=True)
        if self._process is not None:
            self._kill()
            await self._process.wait()
        for transport in self._transports:
            transport.close()
        await asyncio.gather(*self._tasks)
        for timer in self._timers:
            timer.cancel()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _pipe(self, reader: asyncio.StreamReader) -> int:
        """A stream that `reader` reads; returns the end that is written to.

        A pair of sockets, no pipe: uvloop closes the file of a pipe twice, the second time when its number may be
        somebody else's already.
        """
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_unix_connection(
            lambda: asyncio.StreamReaderProtocol(reader), sock=ours
        )
        self._transports.append(transport)
        return theirs.detach()

    def _environment(self) -> dict[str, str]:
        # Nothing of the service's own environment, where its secrets stand, is handed on.
        given = {key: os.environ[key] for key in _HANDED_ON if key in os.environ}
        if self._cluster is not None:
            given |= self._cluster.environment()
        return {**given, "HOME": str(self._folder), "TMPDIR": str(self._folder)}

    def _yield_to_others(self) -> None:
        """Lets everything else on the machine go first, and bounds what the process may take.

        So its threads may spin while they wait for one another, which halves the time of a step and costs answers on
        the same cores nothing (docs/benchmarks.md).
        This runs while the interpreter starts, long before it makes the threads that compute; those inherit it.
        """
        pid = self._running().pid
        bounds = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, self._limits.file_bytes)]
        if self._limits.memory_bytes:
            bounds.append((resource.RLIMIT_DATA, self._limits.memory_bytes))
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, pid, 19)
            if sys.platform == "linux":
                with suppress(PermissionError):
                    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
                for kind, value in bounds:
                    resource.prlimit(pid, kind, (value, value))

    async def _line(self) -> bytes:
        try:
            async with asyncio.timeout(self._limits.silence_s):
                return await self._lines.readline()
        except TimeoutError as err:
            self._kill()
            message = f"the training process said nothing for {self._limits.silence_s:.0f} s and was killed"
            raise Unavailable("WORKER_HUNG", message) from err
        except ValueError as err:
            raise self._garbage("a line without end") from err

    def _parsed(self, line: bytes) -> Told:
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise self._garbage(f"{line[:80]!r}") from err
        if not isinstance(told, dict) or not isinstance(told.get("type"), str):
            raise self._garbage(f"{line[:80]!r}")
        return told

    def _garbage(self, what: str) -> PreconditionFailed:
        self._kill()
        message = f"the training process told {what} instead of its progress; reinstall the training worker"
        return PreconditionFailed("WORKER_UNKNOWN", message)

    def _death(self, status: int) -> MainspringError:
        """Why a process ended that should not have."""
        if self._flooded:
            message = f"the training process wrote more than {self._limits.output_bytes} bytes of output and was killed"
            return PreconditionFailed("WORKER_OUTPUT_TOO_LARGE", message)
        if self._multiplied:
            message = f"the training process became more than {self._limits.processes} processes and was killed"
            return PreconditionFailed("WORKER_MULTIPLIED", message)
        lines = [line for line in b"".join(self._tail).decode(errors="replace").splitlines() if line.strip()]
        log.warning("training_process_died", run=self._name, status=status, output="\n".join(lines[-40:])[-4000:])
        last = " | ".join(lines[-3:])[-500:] or "no output"
        if "No module named" in last and MODULE in last:
            message = "the training worker is not installed for worker_python; install mainspring-training-worker there"
            return PreconditionFailed("WORKER_NOT_INSTALLED", message)
        if status in (-signal.SIGKILL, 128 + signal.SIGKILL) or "MemoryError" in last:
            message = (
                "the training process was killed, most often by the system for lack of memory; lower"
                " max_sequence_tokens, or give the machine more memory"
            )
            return Unavailable("OUT_OF_MEMORY", message)
        ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return Unavailable("WORKER_CRASHED", f"the training process ended with {ended}: {last}")

    async def _drain(self) -> None:
        """Reads the output, so that the process never waits for us, and keeps its end."""
        total = 0
        while chunk := await self._printed.read(_CHUNK):
            total += len(chunk)
            self._tail.append(chunk)
            if total > self._limits.output_bytes and not self._flooded:
                self._flooded = True
                self._kill()

    async def _watch(self, meter: Meter) -> None:
        """Measures the process, and kills it when it multiplies without end."""
        while await asyncio.to_thread(meter.sample):
            if meter.processes > self._limits.processes:
                self._multiplied = True
                await asyncio.to_thread(meter.kill_all)
            await asyncio.sleep(SAMPLE_S)

    async def _reap(self) -> None:
        """Kills what the process has started once it has ended, and stops listening to what has fled from its group."""
        await self._running().wait()
        self._kill()
        for transport in self._transports:
            self._later(_LAST_WORDS_S, transport.close)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, action))

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._running().pid, signal.SIGKILL)

    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process


def _refusal(told: Told) -> MainspringError:
    """Why a process has ended as it says itself."""
    reason, message = str(told["reason"]), str(told["message"])
    if reason == "INSUFFICIENT_STORAGE":
        return InsufficientStorage("the folder for a run's files, or the largest file that it may write,")
    return Unavailable(reason, message) if told.get("again") else PreconditionFailed(reason, message)
