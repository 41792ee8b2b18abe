"""Lines to the parent: one JSON object each, on a pipe of their own, so that no library's output is mistaken for one.

{"type": "phase", "phase": "loading the model"}
{"type": "plan", "steps": 50, "precision": "bf16", ...}
{"type": "metric", "step": 5, "train_loss": 1.9, ...}
{"type": "checkpoint", "step": 5, "file": "checkpoint-00000005.safetensors"}
{"type": "tick"}                                     at least with every micro-batch: silence means that it hangs
{"type": "result", "files": {role: path below output}, ...}
{"type": "failed", "reason": "DIVERGED", "message": "..."}    with "again": true when another try may help
{"type": "usage", "cpu_s": 3.5, "memory_bytes": 1000000}      what workers on other machines have used in all
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

_TICK_S = 1.0


class Progress:
    """Writes lines; a parent that has gone away ends the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ticked = 0.0

    def tell(self, kind: str, **values: Any) -> None:
        """Sends one line, whole."""
        line = json.dumps({"type": kind, **values}, allow_nan=False).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except BrokenPipeError:
            os._exit(1)

    def tick(self) -> None:
        """Shows that the process is alive, at most once a second."""
        if time.monotonic() - self._ticked >= _TICK_S:
            self._ticked = time.monotonic()
            self.tell("tick")


class QuietProgress(Progress):
    """Of a process that follows another: it shows that it is alive, and why it has ended."""

    def tell(self, kind: str, **values: Any) -> None:
        if kind in ("tick", "failed"):
            super().tell(kind, **values)
