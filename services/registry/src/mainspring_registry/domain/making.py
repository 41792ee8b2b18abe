"""Work that ends with a version in the catalogue: imports, quantizations, merges."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from mainspring_svckit.states import StateMachine


class MakingState(StrEnum):
    """Where the work stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


MAKING_STATES = StateMachine(
    {
        MakingState.PENDING: {MakingState.RUNNING},
        MakingState.RUNNING: {MakingState.PENDING, MakingState.SUCCEEDED, MakingState.FAILED},
        MakingState.SUCCEEDED: set(),
        MakingState.FAILED: set(),
    }
)


@dataclass(frozen=True, kw_only=True)
class Making:
    """What all such work has: a name, where it stands, and what came of it."""

    name: str
    state: MakingState = MakingState.PENDING
    model_version: str = ""
    error_reason: str = ""
    error_message: str = ""
    end_time: datetime | None = None

    def started(self) -> Self:
        """The work with a worker; one that another worker left behind is simply taken over."""
        return self if self.state is MakingState.RUNNING else self._to(MakingState.RUNNING)

    def succeeded(self, model_version: str, now: datetime) -> Self:
        """The work with its result."""
        return replace(self._to(MakingState.SUCCEEDED), model_version=model_version, end_time=now)

    def failed(self, reason: str, message: str, now: datetime) -> Self:
        """The work with the reason why it cannot be."""
        return replace(self._to(MakingState.FAILED), error_reason=reason, error_message=message, end_time=now)

    def _to(self, state: MakingState) -> Self:
        MAKING_STATES.check(self.name, self.state, state)
        return replace(self, state=state)
