"""Lines of immutable versions with labels: what prompts and guard policies have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, Self, TypeVar

ContentT_co = TypeVar("ContentT_co", covariant=True)


@dataclass(frozen=True)
class Line:
    """A named line of versions, which count from 1 without gaps; labels point to numbers."""

    name: str
    create_time: datetime
    versions: int = 0
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def newest(self) -> str:
        """The name of the newest version; empty when there is none yet."""
        return self.version(str(self.versions)) if self.versions else ""

    def with_version(self) -> Self:
        """The line with one version more."""
        return replace(self, versions=self.versions + 1)

    def version(self, number: str) -> str:
        """The name of a version."""
        return f"{self.name}/versions/{number}"

    def with_label(self, label: str, version: str) -> Self:
        """The line with `label` pointing at a version."""
        return replace(self, labels={**self.labels, label: version.rsplit("/", 1)[-1]})


class LineVersion(Protocol[ContentT_co]):
    """One version of a line."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def content(self) -> ContentT_co:
        """What it holds; never changes."""
        ...
