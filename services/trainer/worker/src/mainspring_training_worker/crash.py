"""Crash points for tests, as in mainspring-svckit, which this environment does not have."""

from __future__ import annotations

import os

_CRASH_AT = os.environ.get("MAINSPRING_CRASH_AT", "")


def crash_point(name: str) -> None:
    """Ends the process as if it had been killed, when the environment asks for it at this point."""
    if _CRASH_AT and name == _CRASH_AT:
        os._exit(137)
