"""How values are put for people."""

from __future__ import annotations

from datetime import datetime


def short(name: str) -> str:
    """A resource name without its project: `models/m/versions/3`."""
    parts = name.split("/", 2)
    return parts[2] if len(parts) == 3 and parts[0] == "projects" else name


def moment(time: datetime | None) -> str:
    """A time in UTC, to the second; a dash for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S") if time is not None and time.year > 1970 else "–"


def with_interval(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """An estimate with its interval."""
    sign = "+" if signed else ""
    return f"{value:{sign}.4f}  [{low:{sign}.4f}, {high:{sign}.4f}]"


def state(name: str) -> str:
    """An enum value's name without its prefix, in lower case: `STATE_ROLLED_BACK` -> `rolled back`."""
    return name.split("_", 1)[1].replace("_", " ").lower() if "_" in name else name.lower()


def step_title(event_type: str) -> str:
    """An event type as people say it: `mainspring.training.run.succeeded.v1` -> `training run succeeded`."""
    return event_type.removeprefix("mainspring.").rsplit(".v", 1)[0].replace(".", " ").replace("_", " ")


def project_of_token(projects: frozenset[str], wanted: str) -> str:
    """The project to show: the wanted one if the token allows it, else the token's first; empty when unknown."""
    if wanted and ("*" in projects or wanted in projects):
        return wanted
    named = sorted(projects - {"*"})
    return named[0] if named else ""
