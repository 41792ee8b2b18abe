"""Collections and builds on Postgres."""

from __future__ import annotations

from mainspring_embedder.domain.collections import Collection, IndexBuild
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import CollectionName, ProjectName


def collections(database: Database) -> Documents[Collection]:
    """Collections, listed by name."""
    return Documents(
        database,
        "collection",
        Collection,
        parent=lambda c: str(ProjectName(CollectionName.parse(c.name).project)),
        sort_key=lambda c: c.name,
    )


def builds(database: Database) -> Documents[IndexBuild]:
    """Builds of a collection, newest first; their ids go by time."""
    return Documents(
        database,
        "index_build",
        IndexBuild,
        parent=lambda b: b.collection,
        sort_key=lambda b: b.name,
        newest_first=True,
    )
