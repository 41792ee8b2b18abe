"""Mainspring's public Python client, the command `mainspring`, and the local stack.

    async with Mainspring.connect() as mainspring:
        async for part in mainspring.inference.stream("projects/demo/models/summaries", "Say hello."):
            ...

Names are loaded when they are first used, so that the command line starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mainspring_client.client import Mainspring
    from mainspring_client.configuration import Change, Configuration
    from mainspring_client.connection import Endpoints
    from mainspring_client.flywheel import Outcome, TurnUpdate, follow_turn
    from mainspring_client.resources import expand
    from mainspring_client.subscription import RELEASE_EVENTS

__all__ = [
    "RELEASE_EVENTS",
    "Change",
    "Configuration",
    "Endpoints",
    "Mainspring",
    "Outcome",
    "TurnUpdate",
    "expand",
    "follow_turn",
]

_HOMES = {
    "Change": "configuration",
    "Configuration": "configuration",
    "Endpoints": "connection",
    "Mainspring": "client",
    "Outcome": "flywheel",
    "RELEASE_EVENTS": "subscription",
    "TurnUpdate": "flywheel",
    "expand": "resources",
    "follow_turn": "flywheel",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
