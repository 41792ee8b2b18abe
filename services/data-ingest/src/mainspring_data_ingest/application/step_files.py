"""Use case of finding what a recipe needs from elsewhere: evaluation sets, reference examples, tokenizers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mainspring_data_ingest.application.deletions import readable
from mainspring_data_ingest.application.ports import HeldOut, Ports, StepFiles, Suites, Tokenizers
from mainspring_data_ingest.domain.datasets import DatasetVersion
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.splits import Split
from mainspring_data_ingest.domain.steps import (
    Decontamination,
    RecipeStep,
    ReferenceExamples,
    TokenStatistics,
    WordList,
)
from mainspring_svckit.errors import MainspringError, PreconditionFailed
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef

EvaluationSet = Decontamination | ReferenceExamples
Find = Callable[[str], Awaitable[DatasetVersion]]


class StepFinder:
    """Finds what a recipe's parts need."""

    def __init__(self, ports: Ports, tokenizers: Tokenizers | None = None, suites: Suites | None = None) -> None:
        """Takes the ports, and who knows tokenizers and suites; recipes that need one that is not there are refused."""
        self._ports, self._tokenizers, self._suites = ports, tokenizers, suites

    async def find(self, recipe: IngestionRecipe) -> dict[int, StepFiles]:
        """What the recipe's parts need, by their position.

        Raises:
            PreconditionFailed: A version's rows are deleted, a suite asks no dataset, or somebody who knows is not
                configured.
            MainspringError: As `Tokenizers.of` and `Suites.splits_of`.
        """
        return {number: await self._of(part) for number, part in enumerate(recipe.parts)}

    async def reference(self, recipe: IngestionRecipe) -> dict[int, StepFiles]:
        """The reference examples, or else the evaluation set that the recipe keeps out first, by the position of that
        part, as they are now: of an erased version its successor. Nothing when there are none, or when they cannot be
        had.
        """
        sets = [(number, part) for number, part in enumerate(recipe.parts) if isinstance(part, EvaluationSet)]
        if not sets:
            return {}
        number, part = sets[-1] if recipe.reference is not None else sets[0]
        try:
            return {number: StepFiles(part.file, await self._held_out(part, self._newest_of))}
        except MainspringError:
            return {}

    async def _of(self, part: RecipeStep | ReferenceExamples) -> StepFiles:
        match part:
            case WordList():
                return StepFiles(part.file)
            case TokenStatistics(file=None):
                return StepFiles(await self._tokenizer(part.model_version))
            case TokenStatistics():
                return StepFiles(part.file)
            case Decontamination() | ReferenceExamples():
                return StepFiles(part.file, await self._held_out(part, self._readable))
            case _:
                return StepFiles()

    async def _tokenizer(self, model_version: str) -> ArtifactRef:
        if self._tokenizers is None:
            message = "token_statistics by model_version needs MAINSPRING_REGISTRY_ADDRESS of data-ingest; set it"
            raise PreconditionFailed("REGISTRY_NOT_CONFIGURED", message)
        return await self._tokenizers.of(model_version)

    async def _held_out(self, examples: EvaluationSet, find: Find) -> tuple[HeldOut, ...]:
        if examples.evaluation_suite_version:
            wanted = await self._asked(examples.evaluation_suite_version)
        else:
            splits = tuple(map(Split, examples.splits)) or (Split.TEST,)
            wanted = tuple((examples.dataset_version, split) for split in splits if examples.dataset_version)
        async with self._ports.transactions.transaction():
            found = [(await find(name), split) for name, split in wanted]
        return tuple([HeldOut(version.name, split, version.manifest) for version, split in found])

    async def _readable(self, name: str) -> DatasetVersion:
        return await readable(self._ports, name)

    async def _newest_of(self, name: str) -> DatasetVersion:
        version = (await require(self._ports.versions, "DatasetVersion", name)).value
        while version.deletion is not None and version.deletion.successor:
            version = (await require(self._ports.versions, "DatasetVersion", version.deletion.successor)).value
        return await readable(self._ports, version.name)

    async def _asked(self, suite_version: str) -> tuple[tuple[str, Split], ...]:
        if self._suites is None:
            message = "examples of a suite need MAINSPRING_EVALUATION_ADDRESS of data-ingest; set it"
            raise PreconditionFailed("EVALUATOR_NOT_CONFIGURED", message)
        found = await self._suites.splits_of(suite_version)
        if not found:
            message = f"{suite_version} names no dataset version, so it has no examples; name a version or a file"
            raise PreconditionFailed("SUITE_WITHOUT_DATASET", message)
        return found
