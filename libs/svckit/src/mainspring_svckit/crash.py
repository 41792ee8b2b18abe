"""Crash points for fault tests (faults.md F1).

`MAINSPRING_CRASH_AT=trainer:after-commit` makes the trainer exit with status 137 the first time it passes that point,
as if it had been killed. Unset, a crash point is a comparison of two strings.
"""

from __future__ import annotations

import os

_CRASH_AT = os.environ.get("MAINSPRING_CRASH_AT", "")


def crash_point(name: str) -> None:
    """Ends the process when the environment asks for it at this point."""
    if _CRASH_AT and name == _CRASH_AT:
        os._exit(137)
