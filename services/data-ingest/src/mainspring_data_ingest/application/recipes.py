"""Use case of writing ingestion recipes."""

from __future__ import annotations

from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_svckit.names import DatasetName, IngestionRecipeName
from mainspring_svckit.repository import Stored, require


class Recipes:
    """Use cases of recipes."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def put(self, recipe: IngestionRecipe, *, etag: str, allow_missing: bool) -> Stored[IngestionRecipe]:
        """Writes a recipe. Ingestions that were asked for before keep the recipe as it stood then.

        Raises:
            InvalidInput: A name in it is malformed.
            NotFound: It is missing and `allow_missing` is not set.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        IngestionRecipeName.parse(recipe.name, "ingestion_recipe.name")
        DatasetName.parse(recipe.dataset, "ingestion_recipe.dataset")
        async with self._ports.transactions.transaction():
            if not allow_missing:
                await require(self._ports.recipes, "IngestionRecipe", recipe.name)
            return await self._ports.recipes.put(recipe, etag=etag)
