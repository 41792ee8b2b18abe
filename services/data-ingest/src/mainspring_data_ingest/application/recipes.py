"""Use case of writing ingestion recipes."""

from __future__ import annotations

from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.steps import KNOWN_LANGUAGES, LanguageFilter
from mainspring_svckit.errors import FieldViolation, InvalidInput, NotFound
from mainspring_svckit.names import DatasetName, DatasetVersionName, IngestionRecipeName, project_name_of
from mainspring_svckit.repository import Stored, require

_LANGUAGES = ", ".join(sorted(KNOWN_LANGUAGES))


class Recipes:
    """Use cases of recipes."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def put(self, recipe: IngestionRecipe, *, etag: str, allow_missing: bool) -> Stored[IngestionRecipe]:
        """Writes a recipe. Ingestions that were asked for before keep the recipe as it stood then.

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
            return await self._ports.recipes.put(recipe, etag=etag)


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
