"""What child processes have in common: how they are started, and how much memory they may take."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path
from typing import Any

from mainspring_svckit.errors import InsufficientStorage, InvalidInput, MainspringError

_SECRETS = "MAINSPRING_"


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


def limit_memory(limit: int) -> None:
    """Lets this process, and each that it starts, take so many bytes of memory; 0 for any."""
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def out_of_memory() -> InvalidInput:
    """What a process says that came to its limit."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    allowed = f"{limit >> 20} MiB" if limit != resource.RLIM_INFINITY else "there is"
    message = (
        f"a process needed more memory than {allowed}; let data-ingest's processes have more "
        "(MAINSPRING_PROCESS_MEMORY_BYTES), or bring less at a time, such as a smaller evaluation set"
    )
    return InvalidInput(message, reason="REFINING_OUT_OF_MEMORY")
