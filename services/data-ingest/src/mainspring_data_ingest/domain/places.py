"""Places outside from which sources are fetched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Remote:
    """Files that a URI names: an object, a prefix that ends with a slash, a pattern with `*`, or a page by `https`."""

    uri: str


@dataclass(frozen=True)
class Query:
    """The rows of a query of a database that the settings name."""

    connection: str
    sql: str


@dataclass(frozen=True)
class Judged:
    """The project's answers that people judged; what is empty wants all. Times are those of answers, the end not
    included.
    """

    model: str = ""
    model_version: str = ""
    release: str = ""
    start: datetime | None = None
    end: datetime | None = None

    @property
    def origin(self) -> str:
        """The same in words."""
        named = [name for name in (self.model, self.model_version, self.release) if name]
        since = [f"from {self.start.isoformat()}"] if self.start is not None else []
        until = [f"before {self.end.isoformat()}"] if self.end is not None else []
        return " ".join(["judged answers", *named, *since, *until])


Place = Remote | Query | Judged
