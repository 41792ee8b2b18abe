"""Crash points for tests, as in mainspring-svckit, which this environment does not have."""

from __future__ import annotations

import os


def crash_point(name: str) -> None:
    """Ends the process as if it had been killed, when the environment asks for it at this point."""
    if os.environ.get("MAINSPRING_CRASH_AT") == name:
        os._exit(137)
