"""Turns of the loop, drawn from the events that carry their id."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime


@dataclass(frozen=True)
class CycleStep:
    """One event of a turn."""

    event_type: str
    subject: str
    event_id: str
    time: datetime


@dataclass(frozen=True)
class Cycle:
    """One turn; steps in order of arrival."""

    name: str
    steps: tuple[CycleStep, ...]

    def with_step(self, step: CycleStep) -> Cycle:
        """The turn with one step more."""
        return replace(self, steps=(*self.steps, step))
