"""Ingestion recipes: how records become rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.steps import (
    Balance,
    Decontamination,
    RecipeStep,
    TokenStatistics,
    WordList,
)
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
    """How the records of sources become the rows of a dataset's version."""

    name: str
    dataset: str
    columns: ColumnMapping
    prompt_template: str = DEFAULT_PROMPT_TEMPLATE
    system_prompt: str = ""
    split: SplitShares = SplitShares()
    max_field_characters: int = DEFAULT_MAX_FIELD_CHARACTERS
    steps: tuple[RecipeStep, ...] = ()
    report_embedding_model_version: str = ""

    @property
    def evaluation_versions(self) -> tuple[str, ...]:
        """Dataset versions that steps keep out."""
        return tuple(s.dataset_version for s in self.steps if isinstance(s, Decontamination) and s.dataset_version)

    @property
    def names_elsewhere(self) -> tuple[tuple[str, str], ...]:
        """What it names that other services own: kind and name of each."""
        found = [("ModelVersion", name) for name in self.embedding_models]
        for step in self.steps:
            match step:
                case Decontamination(evaluation_suite_version=name) if name:
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
        """Files that steps need: evaluation sets, word lists, tokenizers."""
        steps = [step for step in self.steps if isinstance(step, Decontamination | WordList | TokenStatistics)]
        return tuple(step.file for step in steps if step.file is not None)

    def as_json(self) -> dict[str, Any]:
        """As plain values. What came later stands in it only where it is set, so that digests made before it stay."""
        values = asdict(self)
        values["columns"] = self.columns.as_json()
        if self.split.stratify_by is None:
            del values["split"]["stratify_by"]
        if not self.steps:
            del values["steps"]
        if not self.report_embedding_model_version:
            del values["report_embedding_model_version"]
        for step, written in zip(self.steps, values.get("steps", ()), strict=True):
            _forget_defaults(step, written)
            if isinstance(step, Decontamination) and step.columns is not None:
                written["columns"] = step.columns.as_json()
        return values

    def applied_sha256(self) -> str:
        """Digest of everything in the recipe that decides about rows; its names do not."""
        rules = {key: value for key, value in self.as_json().items() if key not in {"name", "dataset"}}
        return hashlib.sha256(json.dumps({"rules": RULES, **rules}, sort_keys=True).encode()).hexdigest()


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
