"""Bringing foundation and embedding models into the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mainspring_registry.domain.catalogue import ModelKind
from mainspring_registry.domain.making import Making


@dataclass(frozen=True)
class ModelImport(Making):
    """The work of one import; exactly one of `package`, `path` and `hub` is set."""

    name: str
    model: str
    kind: ModelKind
    package: str
    path: str
    licence: str
    context_tokens: int
    create_time: datetime
    author: str = ""
    hub: str = ""
