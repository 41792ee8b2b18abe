"""Use cases of tuning recipes."""

from __future__ import annotations

from mainspring_svckit.repository import Stored, require
from mainspring_trainer.application.ports import Ports
from mainspring_trainer.domain.recipes import TuningRecipe


class Recipes:
    """Use cases of tuning recipes."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def put(self, recipe: TuningRecipe, *, etag: str, allow_missing: bool) -> Stored[TuningRecipe]:
        """Writes a recipe.

        Raises:
            InvalidInput: It names something that it may not.
            NotFound: It is missing and `allow_missing` is not set.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        recipe.check()
        async with self._ports.transactions.transaction():
            if not allow_missing:
                await require(self._ports.recipes, "TuningRecipe", recipe.name)
            return await self._ports.recipes.put(recipe, etag=etag)
