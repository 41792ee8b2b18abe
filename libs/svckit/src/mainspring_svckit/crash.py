"""Crash points for fault tests (faults.md F1).

`MAINSPRING_CRASH_AT=trainer:after-commit` makes the trainer exit with status 137 the first time it passes that point,
as if it had been killed. Unset, a crash point is a look into the environment.
"""

from __future__ import annotations

import os


def crash_point(name: str) -> None:
    """Ends the process when the environment asks for it at this point."""
    if os.environ.get("MAINSPRING_CRASH_AT") == name:
        os._exit(137)
