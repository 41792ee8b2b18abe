"""What a run begins with instead of a fresh adapter: the champion that its recipe asks for, or a version that somebody
names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.names import ModelAliasName, ModelName, ModelVersionName, TuningRecipeName
from mainspring_trainer.application.ports import ModelVersion, Ports
from mainspring_trainer.domain.recipes import Adaptation, LoraConfig, Method, StartFrom, TuningRecipe
from mainspring_trainer.domain.runs import Parent, TrainingRun

CONFIG, WEIGHTS = "adapter/adapter_config.json", "adapter/adapter_model.safetensors"
_CHAMPION = "champion"
_SCORES = "SEQ_CLS"
"""How PEFT marks the adapter of a model that gives scores instead of words."""


async def parent_of(ports: Ports, run: TrainingRun) -> Parent | None:
    """What a run begins with; None for the base.

    Raises:
        PreconditionFailed: PARENT_UNUSABLE, of a version that somebody named.
        Unavailable: The registry could not be asked.
    """
    if run.begin_with:
        return await named(ports, run.recipe, run.begin_with)
    return await _champion(ports, run.recipe)


async def named(ports: Ports, recipe: TuningRecipe, name: str) -> Parent:
    """A version by name, whose adapter goes on to learn all rows.

    Raises:
        InvalidInput: PROJECT_DIFFERS, it is of another project than the recipe; or it is no version's name.
        PreconditionFailed: PARENT_UNUSABLE, a run of the recipe cannot begin with it.
        Unavailable: The registry could not be asked.
    """
    project = TuningRecipeName.parse(recipe.name).project
    if ModelVersionName.parse(name, "parent_model_version").project != project:
        message = f"parent_model_version must be of the recipe's own project, {project}"
        raise InvalidInput(message, reason="PROJECT_DIFFERS")
    version = await ports.models.version(name)
    if version is None:
        problem = "does not exist; name one that does"
    elif not (problem := _misfit(recipe, version)):
        problem = _other_shape(recipe, json.loads(await ports.files.read(project, version.files[CONFIG])))
    if version is None or problem:
        message = f"a run of {recipe.name} cannot begin with {name}, which {problem}"
        raise PreconditionFailed("PARENT_UNUSABLE", message, {"modelVersion": name})
    return Parent(version.name, version.files[CONFIG], version.files[WEIGHTS])


def _misfit(recipe: TuningRecipe, version: ModelVersion) -> str:
    """Why a version is nothing that a run can begin with; empty when it is."""
    if recipe.adaptation is Adaptation.FULL:
        return "has an adapter, and that recipe learns all weights; let it learn an adapter (LORA or QLORA)"
    if version.quantized_from:
        return f"was compressed from {version.quantized_from} and has no adapter any more; name that one"
    if not {CONFIG, WEIGHTS} <= set(version.files):
        return f"is of the kind {version.kind} and has no adapter for PEFT; name an adapter"
    if version.base_model_version != recipe.base_model_version:
        wanted = f"and that recipe adapts {recipe.base_model_version}"
        return f"is an adapter of {version.base_model_version or 'nothing'}, {wanted}; name the same base there"
    return ""


def _other_shape(recipe: TuningRecipe, config: Mapping[str, Any]) -> str:
    """Why an adapter's shape is another than that of the recipe's; empty when it is the same. Which layers it changes
    is known where the base is in memory: the process of the run compares them.
    """
    if (config.get("task_type") == _SCORES) != (recipe.method is Method.REWARD_MODEL):
        return "gives scores or words where that recipe's method learns the other; only reward models go on as such"
    if _shape(config) == _shape_of(recipe.lora):
        return ""
    names = ("rank", "alpha", "rank_stabilized", "weight_decomposed")
    wanted = ", ".join(f"lora.{name}={json.dumps(value)}" for name, value in zip(names, _shape(config), strict=True))
    return f"has an adapter of another shape than that recipe asks for; set {wanted} there"


async def _champion(ports: Ports, recipe: TuningRecipe) -> Parent | None:
    """The champion, when the recipe asks for it and a run can go on from it."""
    if recipe.start_from is not StartFrom.CHAMPION:
        return None
    model = ModelName.parse(recipe.model)
    champion = await ports.models.version(str(ModelAliasName(model.project, model.model, _CHAMPION)))
    if champion is not None and champion.quantized_from:
        # A compressed champion is one file; what it was made of goes on.
        champion = await ports.models.version(champion.quantized_from)
    if champion is None or champion.base_model_version != recipe.base_model_version:
        return None
    if not {CONFIG, WEIGHTS} <= set(champion.files) or not champion.dataset_version:
        return None
    config = json.loads(await ports.files.read(model.project, champion.files[CONFIG]))
    if _shape(config) != _shape_of(recipe.lora):
        return None  # Another rank or scale needs a fresh start.
    dataset = await ports.datasets.version(champion.dataset_version)
    if dataset is None:
        return None
    return Parent(champion.name, champion.files[CONFIG], champion.files[WEIGHTS], dataset)


def _shape(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """Rank and scale of an adapter, by PEFT's configuration."""
    return (
        config.get("r"),
        config.get("lora_alpha"),
        bool(config.get("use_rslora")),
        bool(config.get("use_dora")),
    )


def _shape_of(lora: LoraConfig) -> tuple[Any, ...]:
    return (lora.rank, lora.alpha, lora.rank_stabilized, lora.weight_decomposed)
