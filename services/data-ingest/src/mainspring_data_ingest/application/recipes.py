"""Use case of writing ingestion recipes."""

from __future__ import annotations

from dataclasses import replace

from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.domain.recipes import IngestionRecipe, RecipeVersion
from mainspring_data_ingest.domain.steps import KNOWN_LANGUAGES, LanguageFilter
from mainspring_svckit.errors import AlreadyExists, FieldViolation, InvalidInput, NotFound
from mainspring_svckit.names import DatasetName, DatasetVersionName, IngestionRecipeName, project_name_of
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Stored, require

_LANGUAGES = ", ".join(sorted(KNOWN_LANGUAGES))


class Recipes:
    """Use cases of recipes."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def put(self, recipe: IngestionRecipe, *, etag: str, allow_missing: bool) -> Stored[IngestionRecipe]:
        """Writes a recipe; what differs from the one that is there becomes its next version. Ingestions that were asked
        for before keep the recipe as it stood then.

        Raises:
            InvalidInput: A name in it is malformed, or a language is not known.
            NotFound: It is missing and `allow_missing` is not set, or the evaluation set or file of a step is missing.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        name = IngestionRecipeName.parse(recipe.name, "ingestion_recipe.name")
        DatasetName.parse(recipe.dataset, "ingestion_recipe.dataset")
        project = name.project
        _check_languages(recipe)
        for version in recipe.evaluation_versions:
            if DatasetVersionName.parse(version).project != project:
                raise NotFound("DatasetVersion", version)
        for kind, name_elsewhere in recipe.names_elsewhere:
            if project_name_of(name_elsewhere) != f"projects/{project}":
                raise NotFound(kind, name_elsewhere)
        for file in recipe.step_files:
            if not await self._ports.files.exists(project, file):
                raise NotFound("Artifact", file.sha256)
        async with self._ports.transactions.transaction():
            for version in recipe.evaluation_versions:
                await require(self._ports.versions, "DatasetVersion", version)
            if not allow_missing:
                await require(self._ports.recipes, "IngestionRecipe", recipe.name)
            return await self._write(recipe, etag)

    async def _write(self, recipe: IngestionRecipe, etag: str) -> Stored[IngestionRecipe]:
        recipes = self._ports.recipes
        before = await recipes.get(recipe.name, lock=True)
        if before is None and not etag:
            try:
                stored = await recipes.add(replace(recipe, version=1))
            except AlreadyExists:
                # Somebody else made it while we looked; by now he has committed.
                before = await require(recipes, "IngestionRecipe", recipe.name, lock=True)
            else:
                await self._keep(stored.value)
                return stored
        if before is not None and before.value.version and before.value.says_the_same_as(recipe):
            return await recipes.put(replace(recipe, version=before.value.version), etag=etag)
        stored = await recipes.put(replace(recipe, version=await self._newest(recipe.name) + 1), etag=etag)
        await self._keep(stored.value)
        return stored

    async def _newest(self, name: str) -> int:
        # By the versions and not by the recipe: an older release, which counts nothing, may have written that.
        listed = await self._ports.recipe_versions.list(name, Page(1, None))
        return listed.items[0].value.recipe.version if listed.items else 0

    async def _keep(self, recipe: IngestionRecipe) -> None:
        version = RecipeVersion(recipe.version_name, recipe, self._ports.clock.now())
        await self._ports.recipe_versions.add(version)


def _check_languages(recipe: IngestionRecipe) -> None:
    unknown = [
        FieldViolation(f"ingestion_recipe.steps[{number}].language_filter", f"{code!r} is not among {_LANGUAGES}")
        for number, step in enumerate(recipe.steps)
        if isinstance(step, LanguageFilter)
        for code in (*step.languages, *step.other_languages)
        if code not in KNOWN_LANGUAGES
    ]
    if unknown:
        raise InvalidInput(f"{unknown[0].field}: {unknown[0].description}", violations=unknown)
