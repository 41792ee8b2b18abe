"""What child processes have in common: how they are started, and how much memory they may take."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from mainspring_svckit.errors import InsufficientStorage, InvalidInput, MainspringError

OUT_OF_MEMORY = 3
"""Exit status of a process that needed more memory than it may take."""
_SECRETS = "MAINSPRING_"
_ENDS_AT = 0.95
"""Share of its limit at which a process ends: so near that hardly any memory is lost, so far that growing by Python's
speed is seen in time."""
_LOOKS_EVERY_S = 0.02


async def start(module: str, folder: Path, **pipes: Any) -> asyncio.subprocess.Process:
    """Starts `python -m module folder`. The child gets none of our settings, which hold secrets."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(_SECRETS)}
    return await asyncio.create_subprocess_exec(sys.executable, "-m", module, str(folder), env=env, **pipes)


async def end(child: asyncio.subprocess.Process) -> None:
    """Kills a child, if it is still there."""
    if child.returncode is None:
        child.kill()
        await child.wait()


def refusal(told: dict[str, Any], folder: Path) -> MainspringError:
    """The error that a child told of with its status `REFUSED`."""
    if told["reason"] == "INSUFFICIENT_STORAGE":
        return InsufficientStorage(str(folder.parent))
    return InvalidInput(told["message"], reason=told["reason"])


def collect_rarely() -> None:
    """Lets this process look for garbage in cycles after 200,000 new objects instead of 700. Records and rows are many
    small objects without cycles; looking among them took a quarter of the time of refining.
    """
    gc.freeze()
    gc.set_threshold(200_000, 10, 10)


def limit_memory(limit: int) -> None:
    """Lets this process, and each that it starts, take so many bytes of memory; 0 for any. See `watch_memory`."""
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        watch_memory()


def watch_memory() -> None:
    """Ends this process with the status `OUT_OF_MEMORY` shortly before it comes to its limit of memory, if it has one.

    At the limit itself any call may fail, also one of a library that then crashes instead of saying so.
    """
    limit = _memory_limit()
    if limit:
        try:
            threading.Thread(target=_end_before, args=(limit * _ENDS_AT,), daemon=True).start()
        except RuntimeError:  # There is none left for a thread.
            os._exit(OUT_OF_MEMORY)


def _end_before(most: float) -> None:
    page, pause = resource.getpagesize(), threading.Event()
    with Path("/proc/self/statm").open("rb", buffering=0) as file:
        while not pause.wait(_LOOKS_EVERY_S):
            file.seek(0)
            if int(file.read(200).split()[5]) * page > most:
                os._exit(OUT_OF_MEMORY)


def _memory_limit() -> int:
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit


def out_of_memory(limit: int | None = None) -> InvalidInput:
    """What is said of a process that came to its limit of so many bytes, by default to the limit of this one."""
    most = _memory_limit() if limit is None else limit
    allowed = f"{most >> 20} MiB" if most else "there is"
    message = (
        f"a process needed more memory than {allowed}; let data-ingest's processes have more "
        "(MAINSPRING_PROCESS_MEMORY_BYTES), or bring less at a time, such as a smaller evaluation set"
    )
    return InvalidInput(message, reason="REFINING_OUT_OF_MEMORY")


def ended(status: int) -> str:
    """How a process ended, from its exit status, for a sentence that names it first."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def may_lack_memory(status: int) -> bool:
    """Whether a process that ended with `status` may have done so for lack of memory, and could not say it."""
    return -status in {signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS}
