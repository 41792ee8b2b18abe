"""Releases: at most one per model is active, history is append-only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mainspring_registry.domain.policies import ServingUnit
from mainspring_svckit.names import ReleaseName
from mainspring_svckit.states import StateMachine
from mainspring_svckit.values import ArtifactRef, ServedUnit


class ReleaseState(StrEnum):
    """What a release is worth now."""

    ACTIVE = "ACTIVE"
    SUPERSEDED = "SUPERSEDED"
    REVOKED = "REVOKED"
    ROLLED_BACK = "ROLLED_BACK"


RELEASE_STATES = StateMachine(
    {
        ReleaseState.ACTIVE: {ReleaseState.SUPERSEDED, ReleaseState.REVOKED, ReleaseState.ROLLED_BACK},
        ReleaseState.SUPERSEDED: {ReleaseState.ACTIVE},
        ReleaseState.REVOKED: set(),
        ReleaseState.ROLLED_BACK: set(),
    }
)


@dataclass(frozen=True)
class Release:
    """One version's right to serve; `served_unit` is None for releases from before units were kept in full."""

    name: str
    model: str
    model_version: str
    gate_decision: str
    previous_release: str
    cycle: str
    create_time: datetime
    state: ReleaseState = ReleaseState.ACTIVE
    end_reason: str = ""
    proof: ArtifactRef | None = None
    released_by: str = ""
    approvals: tuple[str, ...] = ()
    unit: ServingUnit = field(default_factory=ServingUnit)
    served_unit: ServedUnit | None = None

    @property
    def number(self) -> int:
        """Its place in the model's history, from 1."""
        return int(ReleaseName.parse(self.name).release)

    def superseded(self) -> Release:
        """The release after a newer one took its place."""
        return self._to(ReleaseState.SUPERSEDED, "")

    def restored(self) -> Release:
        """The release after the newer one was taken back."""
        return self._to(ReleaseState.ACTIVE, "")

    def revoked(self, reason: str) -> Release:
        """The release after somebody took it back."""
        return self._to(ReleaseState.REVOKED, reason)

    def rolled_back(self, reason: str) -> Release:
        """The release after its roll-out failed."""
        return self._to(ReleaseState.ROLLED_BACK, reason)

    def _to(self, state: ReleaseState, reason: str) -> Release:
        RELEASE_STATES.check(self.name, self.state, state)
        return replace(self, state=state, end_reason=reason)
