"""What the processes of a run have in common: how they end, and whom they follow."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import sys
from pathlib import Path

REFUSED = 3
"""Exit status of a run that cannot end, after its reason was told."""
STOPPED = 75
"""Exit status of a run that was asked to stop, after its checkpoint."""
KILLED = 128 + signal.SIGKILL
_PR_SET_PDEATHSIG = 1
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GPU_FULL = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent dies, so that it never trains for nobody."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # It died before we asked.


def awaited_spec() -> Path:
    """The file that the last argument names; the end of standard input says that it is there.

    Who is not wanted after all finds no file, and ends.
    """
    sys.stdin.read()
    path = Path(sys.argv[-1])
    if not path.exists():
        sys.exit(0)
    return path


def one_of(visible: str) -> str:
    """The first of the GPUs that an environment shows, as it names them; a run takes one."""
    return visible.split(",")[0].strip()


def lacks_memory(error: BaseException) -> str | None:
    """Who has too little memory, when that is what an error of Python or torch says; None for every other error."""
    said = str(error)
    if type(error).__name__ == "OutOfMemoryError" or any(words in said for words in _GPU_FULL):
        return "the GPU"
    lacking = isinstance(error, MemoryError) or ("memory" in said and "illegal memory access" not in said)
    return "the machine" if lacking else None


def lacks_space(error: BaseException) -> bool:
    """Whether the disk has no space left, or a file may not grow, is what an error of Python or of a library says.

    What is written in Rust (safetensors, tokenizers) raises errors of its own, with the system's number in the text.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_FULL
    said = re.search(r"\(os error (\d+)\)", str(error))
    return said is not None and int(said[1]) in _DISK_FULL
