"""How versions of a model are made from versions of a dataset."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.names import DatasetName, ModelName, ModelVersionName, TuningRecipeName


class Method(StrEnum):
    """How the model learns."""

    SUPERVISED = "SUPERVISED"
    DPO = "DPO"
    IPO = "IPO"
    ORPO = "ORPO"
    KTO = "KTO"

    @property
    def default_learning_rate(self) -> float:
        """Peak rate that suits an adapter."""
        return 1e-3 if self is Method.SUPERVISED else 1e-4


class StartFrom(StrEnum):
    """Where a run begins."""

    BASE = "BASE"
    CHAMPION = "CHAMPION"


@dataclass(frozen=True)
class LoraConfig:
    """Shape of the adapter; the update is multiplied by alpha / rank."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0


@dataclass(frozen=True)
class Optimization:
    """How the loss is brought down; see the contract's message of the same name."""

    learning_rate: float = 1e-3
    epochs: float = 1.0
    batch_rows: int = 16
    max_sequence_tokens: int = 512
    warmup_percent: float = 5.0
    validate_every_steps: int = 0
    patience: int = 3
    max_steps: int = 0
    seed: int = 0


@dataclass(frozen=True)
class PreferenceConfig:
    """How judgements are learned; see the contract's message of the same name."""

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


@dataclass(frozen=True)
class TuningRecipe:
    """Each published version of `dataset` starts a run that makes a version of `model`."""

    name: str
    dataset: str
    base_model_version: str
    model: str
    method: Method = Method.SUPERVISED
    start_from: StartFrom = StartFrom.BASE
    replay_ratio: float = 1.0
    lora: LoraConfig = LoraConfig()
    optimization: Optimization = Optimization()
    preference: PreferenceConfig = PreferenceConfig()

    @property
    def sha256(self) -> str:
        """Digest of everything that decides what a run does."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def check(self) -> None:
        """Raises `InvalidInput` unless all that the recipe names is well-named and of its own project."""
        project = TuningRecipeName.parse(self.name, "tuning_recipe.name").project
        named = {
            "tuning_recipe.dataset": DatasetName.parse(self.dataset, "tuning_recipe.dataset").project,
            "tuning_recipe.base_model_version": ModelVersionName.parse(
                self.base_model_version, "tuning_recipe.base_model_version"
            ).project,
            "tuning_recipe.model": ModelName.parse(self.model, "tuning_recipe.model").project,
        }
        description = f"must be of the recipe's own project, {project}"
        foreign = [FieldViolation(field, description) for field, other in named.items() if other != project]
        if foreign:
            raise InvalidInput(f"{foreign[0].field} {description}", reason="PROJECT_DIFFERS", violations=foreign)
        base = ModelVersionName.parse(self.base_model_version)
        if str(ModelName(base.project, base.model)) == self.model:
            description = "must be another model than the base; adapters are versions of a model of their own"
            field = "tuning_recipe.model"
            raise InvalidInput(
                f"{field} {description}", reason="MODEL_IS_BASE", violations=[FieldViolation(field, description)]
            )
