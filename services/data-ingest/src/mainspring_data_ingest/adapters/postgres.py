"""Data-ingest's repositories on Postgres."""

from __future__ import annotations

from mainspring_data_ingest.domain.comparisons import Comparison
from mainspring_data_ingest.domain.datasets import Dataset, DatasetVersion
from mainspring_data_ingest.domain.erasures import Erasure
from mainspring_data_ingest.domain.ingestions import Ingestion
from mainspring_data_ingest.domain.recipes import IngestionRecipe, RecipeVersion
from mainspring_data_ingest.domain.uploads import Upload
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.names import project_name_of


def recipes(database: Database) -> Documents[IngestionRecipe]:
    """Recipes, listed by name."""
    return Documents(
        database,
        "ingestion_recipe",
        IngestionRecipe,
        parent=lambda r: project_name_of(r.name),
        sort_key=lambda r: r.name,
    )


def recipe_versions(database: Database) -> Documents[RecipeVersion]:
    """Versions of recipes, newest first."""
    return Documents(
        database,
        "ingestion_recipe_version",
        RecipeVersion,
        parent=lambda v: v.recipe.name,
        sort_key=lambda v: f"{v.recipe.version:09}",
        newest_first=True,
    )


def ingestions(database: Database) -> Documents[Ingestion]:
    """Ingestions, newest first; their ids go by time."""
    return Documents(
        database,
        "ingestion",
        Ingestion,
        parent=lambda i: project_name_of(i.name),
        sort_key=lambda i: i.name,
        newest_first=True,
    )


def datasets(database: Database) -> Documents[Dataset]:
    """Datasets, listed by name."""
    return Documents(database, "dataset", Dataset, parent=lambda d: project_name_of(d.name), sort_key=lambda d: d.name)


def versions(database: Database) -> Documents[DatasetVersion]:
    """Versions of a dataset, newest first."""
    return Documents(
        database,
        "dataset_version",
        DatasetVersion,
        parent=lambda v: v.dataset,
        sort_key=lambda v: f"{v.number:012}",
        newest_first=True,
    )


def comparisons(database: Database) -> Documents[Comparison]:
    """Comparisons that were made, looked up by the versions compared."""
    return Documents(
        database,
        "dataset_comparison",
        Comparison,
        parent=lambda c: project_name_of(c.name),
        sort_key=lambda c: c.name,
    )


def uploads(database: Database) -> Documents[Upload]:
    """Files that somebody brought, by their digests."""
    return Documents(
        database, "upload", Upload, parent=lambda u: project_name_of(u.name), sort_key=lambda u: u.artifact.sha256
    )


def erasures(database: Database) -> Documents[Erasure]:
    """Erasures, newest first; their ids go by time."""
    return Documents(
        database,
        "erasure",
        Erasure,
        parent=lambda e: project_name_of(e.name),
        sort_key=lambda e: e.name,
        newest_first=True,
    )
