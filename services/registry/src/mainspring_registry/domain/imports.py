"""Bringing foundation and embedding models into the catalogue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mainspring_registry.domain.catalogue import ModelKind
from mainspring_svckit.states import StateMachine


class ImportState(StrEnum):
    """Where an import stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


IMPORT_STATES = StateMachine(
    {
        ImportState.PENDING: {ImportState.RUNNING},
        ImportState.RUNNING: {ImportState.PENDING, ImportState.SUCCEEDED, ImportState.FAILED},
        ImportState.SUCCEEDED: set(),
        ImportState.FAILED: set(),
    }
)


@dataclass(frozen=True)
class ModelImport:
    """The work of one import; exactly one of `package`, `path` and `hub` is set."""

    name: str
    model: str
    kind: ModelKind
    package: str
    path: str
    licence: str
    context_tokens: int
    create_time: datetime
    state: ImportState = ImportState.PENDING
    model_version: str = ""
    error_reason: str = ""
    error_message: str = ""
    end_time: datetime | None = None
    author: str = ""
    hub: str = ""

    def started(self) -> ModelImport:
        """The import with a worker; one that another worker left behind is simply taken over."""
        if self.state is ImportState.RUNNING:
            return self
        IMPORT_STATES.check(self.name, self.state, ImportState.RUNNING)
        return replace(self, state=ImportState.RUNNING)

    def succeeded(self, model_version: str, now: datetime) -> ModelImport:
        """The import with its result."""
        IMPORT_STATES.check(self.name, self.state, ImportState.SUCCEEDED)
        return replace(self, state=ImportState.SUCCEEDED, model_version=model_version, end_time=now)

    def failed(self, reason: str, message: str, now: datetime) -> ModelImport:
        """The import with the reason why it cannot be."""
        IMPORT_STATES.check(self.name, self.state, ImportState.FAILED)
        return replace(self, state=ImportState.FAILED, error_reason=reason, error_message=message, end_time=now)
