"""Places outside from which sources are fetched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remote:
    """Files that a URI names: an object, a prefix that ends with a slash, a pattern with `*`, or a page by `https`."""

    uri: str


@dataclass(frozen=True)
class Query:
    """The rows of a query of a database that the settings name."""

    connection: str
    sql: str


Place = Remote | Query
