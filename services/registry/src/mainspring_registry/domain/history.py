"""What happened to a model: entries chained by their digests, so that none can be changed or taken out unseen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mainspring_registry.domain.catalogue import Model
from mainspring_registry.domain.digests import digest_of
from mainspring_svckit.names import HistoryEntryName, ModelName


class HistoryKind(StrEnum):
    """What happened."""

    DECIDED = "DECIDED"
    APPROVED = "APPROVED"
    RELEASED = "RELEASED"
    SUPERSEDED = "SUPERSEDED"
    RESTORED = "RESTORED"
    REVOKED = "REVOKED"
    ROLLED_BACK = "ROLLED_BACK"
    POLICY_WRITTEN = "POLICY_WRITTEN"
    ALIAS_MOVED = "ALIAS_MOVED"
    RECONCILED = "RECONCILED"


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that happened.

    Attributes:
        resource: What it happened to.
        actor: Who did it.
        details: What else belongs to it.
        previous_sha256: Digest of the entry before; empty for the first.
        sha256: Digest of this entry, all other fields included.
    """

    name: str
    model: str
    kind: HistoryKind
    resource: str
    actor: str
    details: Mapping[str, str]
    create_time: datetime
    previous_sha256: str
    sha256: str = ""

    @property
    def number(self) -> int:
        """Its place in the model's history, from 1."""
        return int(HistoryEntryName.parse(self.name).entry)

    @property
    def computed_sha256(self) -> str:
        """What `sha256` must be."""
        return digest_of(replace(self, sha256=""))


def next_entry(
    model: Model, kind: HistoryKind, resource: str, actor: str, details: Mapping[str, str], now: datetime
) -> tuple[Model, HistoryEntry]:
    """The model with one entry more, and that entry."""
    name = ModelName.parse(model.name)
    number = model.history + 1
    entry = HistoryEntry(
        name=str(HistoryEntryName(name.project, name.model, str(number))),
        model=model.name,
        kind=kind,
        resource=resource,
        actor=actor,
        details=dict(details),
        create_time=now,
        previous_sha256=model.history_sha256,
    )
    entry = replace(entry, sha256=entry.computed_sha256)
    return replace(model, history=number, history_sha256=entry.sha256), entry


class Chain:
    """Reads a model's history from its first entry on and notes what is wrong."""

    def __init__(self) -> None:
        self.entries, self.head, self.active = 0, "", ""
        self.problems: list[str] = []

    def read(self, entries: Iterable[HistoryEntry]) -> None:
        """Takes the next entries, oldest first."""
        for entry in entries:
            self.entries += 1
            if entry.number != self.entries:
                self.problems.append(f"{entry.name} stands where entry {self.entries} should stand")
                self.entries = entry.number
            if entry.previous_sha256 != self.head:
                self.problems.append(f"{entry.name} does not follow the entry before it")
            if entry.sha256 != entry.computed_sha256:
                self.problems.append(f"{entry.name} was changed after it was written")
            self.head = entry.sha256
            if entry.kind in {HistoryKind.RELEASED, HistoryKind.RESTORED}:
                self.active = entry.resource
            elif entry.resource == self.active:
                self.active = ""

    def finish(self, model: Model) -> None:
        """Compares with what the model says of itself."""
        if (self.entries, self.head) != (model.history, model.history_sha256):
            message = f"{model.history} entries were written, {self.entries} are there, or another is the newest"
            self.problems.append(message)
        if self.entries and self.active != model.active_release:
            message = f"{model.active_release or 'nothing'} is active, by the history {self.active or 'nothing'}"
            self.problems.append(message)
