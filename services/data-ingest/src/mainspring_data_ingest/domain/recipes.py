"""Ingestion recipes: how records become rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.steps import (
    Balance,
    Decontamination,
    RecipeStep,
    ReferenceExamples,
    TokenStatistics,
    WordList,
)
from mainspring_svckit.names import IngestionRecipeName, IngestionRecipeVersionName
from mainspring_svckit.values import ArtifactRef

DEFAULT_PROMPT_TEMPLATE = "{input}"
DEFAULT_MAX_FIELD_CHARACTERS = 20_000
RULES = "mainspring.rows.v1"
"""Name of the rules by which records become rows; part of every recipe's digest, so a change of rules shows."""


class SplitStrata(StrEnum):
    """What is shared out by itself."""

    LABEL = "LABEL"
    SOURCE = "SOURCE"


@dataclass(frozen=True)
class SplitShares:
    """How many of 100 groups go to each split; they add up to 100. With strata, of 100 groups of each stratum."""

    train_percent: int = 80
    validation_percent: int = 10
    test_percent: int = 10
    stratify_by: SplitStrata | None = None


@dataclass(frozen=True)
class IngestionRecipe:
    """How the records of sources become the rows of a dataset's version.

    Its `version` counts its contents, from 1; 0 where a release wrote it that did not count. It is not part of what the
    recipe says. `reference` is what its report says how near the rows come to; without one, that is the evaluation set
    which a step keeps out first.
    """

    name: str
    dataset: str
    columns: ColumnMapping
    prompt_template: str = DEFAULT_PROMPT_TEMPLATE
    system_prompt: str = ""
    split: SplitShares = SplitShares()
    max_field_characters: int = DEFAULT_MAX_FIELD_CHARACTERS
    steps: tuple[RecipeStep, ...] = ()
    report_embedding_model_version: str = ""
    reference: ReferenceExamples | None = None
    version: int = 0

    @property
    def version_name(self) -> str:
        """Name of the version that it is, or empty."""
        if not self.version:
            return ""
        name = IngestionRecipeName.parse(self.name)
        return str(IngestionRecipeVersionName(name.project, name.recipe, str(self.version)))

    def says_the_same_as(self, other: IngestionRecipe) -> bool:
        """Whether the two differ at most in what counts them."""
        return replace(self, version=0) == replace(other, version=0)

    @property
    def parts(self) -> tuple[RecipeStep | ReferenceExamples, ...]:
        """What may need files: its steps and, after them, the reference examples that it names."""
        return (*self.steps, *([self.reference] if self.reference is not None else []))

    @property
    def evaluation_versions(self) -> tuple[str, ...]:
        """Dataset versions that steps keep out, or whose rows are its reference examples."""
        sets = [part for part in self.parts if isinstance(part, Decontamination | ReferenceExamples)]
        return tuple(part.dataset_version for part in sets if part.dataset_version)

    @property
    def names_elsewhere(self) -> tuple[tuple[str, str], ...]:
        """What it names that other services own: kind and name of each."""
        found = [("ModelVersion", name) for name in self.embedding_models]
        for part in self.parts:
            match part:
                case (
                    Decontamination(evaluation_suite_version=name) | ReferenceExamples(evaluation_suite_version=name)
                ) if name:
                    found.append(("EvaluationSuiteVersion", name))
                case TokenStatistics(model_version=name) if name:
                    found.append(("ModelVersion", name))
                case _:
                    pass
        return tuple(found)

    @property
    def embedding_models(self) -> tuple[str, ...]:
        """Embedding model versions whose vectors it needs."""
        steps = [s.clusters for s in self.steps if isinstance(s, Balance) and s.clusters is not None]
        names = (*(clusters.embedding_model_version for clusters in steps), self.report_embedding_model_version)
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def step_files(self) -> tuple[ArtifactRef, ...]:
        """Files that its parts need: evaluation sets, word lists, tokenizers, reference examples."""
        parts = [
            part
            for part in self.parts
            if isinstance(part, Decontamination | WordList | TokenStatistics | ReferenceExamples)
        ]
        return tuple(part.file for part in parts if part.file is not None)

    def as_json(self) -> dict[str, Any]:
        """As plain values. What came later stands in it only where it is set, so that digests made before it stay."""
        values = asdict(self)
        values["columns"] = self.columns.as_json()
        del values["version"]
        if self.split.stratify_by is None:
            del values["split"]["stratify_by"]
        if not self.steps:
            del values["steps"]
        if not self.report_embedding_model_version:
            del values["report_embedding_model_version"]
        if self.reference is None:
            del values["reference"]
        elif self.reference.columns is not None:
            values["reference"]["columns"] = self.reference.columns.as_json()
        for step, written in zip(self.steps, values.get("steps", ()), strict=True):
            _forget_defaults(step, written)
            if isinstance(step, Decontamination) and step.columns is not None:
                written["columns"] = step.columns.as_json()
        return values

    def applied_sha256(self) -> str:
        """Digest of everything in the recipe that decides about rows; its names do not."""
        rules = {key: value for key, value in self.as_json().items() if key not in {"name", "dataset"}}
        return hashlib.sha256(json.dumps({"rules": RULES, **rules}, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class RecipeVersion:
    """A recipe as it stood for a while; it never changes."""

    name: str
    recipe: IngestionRecipe
    create_time: datetime


_LATER = {
    "decontamination": ("splits", "evaluation_suite_version"),
    "token_statistics": ("model_version",),
    "balance": ("sample_rows", "min_weight", "max_repeats", "clusters"),
}
"""Parameters that steps have got since there are recipes, by the steps' kinds."""


def _forget_defaults(step: RecipeStep, written: dict[str, Any]) -> None:
    """Leaves out what came later and is not set, so that digests made before it stay."""
    for field in fields(step):
        if field.name in _LATER.get(step.kind, ()) and getattr(step, field.name) == field.default:
            del written[field.name]
