"""Between recipes and their message; pure functions."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from mainspring.training.v1 import recipe_pb2
from mainspring_svckit.mapping import time_to_proto
from mainspring_svckit.repository import Stored
from mainspring_trainer.domain.recipes import (
    Adaptation,
    Checks,
    DistillationConfig,
    LoraConfig,
    Method,
    OnlineConfig,
    Optimization,
    PreferenceConfig,
    PretrainingConfig,
    Rule,
    StartFrom,
    TeacherSource,
    TuningRecipe,
    default_learning_rate,
)

_Recipe, _Online, _Distillation = recipe_pb2.TuningRecipe, recipe_pb2.OnlineConfig, recipe_pb2.DistillationConfig
T = TypeVar("T")


def recipe_from_proto(message: recipe_pb2.TuningRecipe) -> TuningRecipe:
    """Reads a recipe, with defaults for what is not set."""
    method = Method(_Recipe.Method.Name(message.method).removeprefix("METHOD_"))
    whole = method.makes_whole
    adaptation = Adaptation.FULL if whole else Adaptation.LORA
    if message.adaptation:
        adaptation = Adaptation(_Recipe.Adaptation.Name(message.adaptation).removeprefix("ADAPTATION_"))
    start = _Recipe.StartFrom.Name(message.start_from).removeprefix("START_FROM_")
    rank = message.lora.rank or LoraConfig().rank
    rate = default_learning_rate(method, adaptation)
    return TuningRecipe(
        name=message.name,
        dataset=message.dataset,
        base_model_version=message.base_model_version,
        model=message.model,
        method=method,
        start_from=StartFrom(start) if message.start_from else StartFrom.BASE,
        replay_ratio=message.replay_ratio or 1.0,
        lora=_set(LoraConfig(alpha=2.0 * rank), message.lora),
        optimization=_set(Optimization(learning_rate=rate), message.optimization),
        preference=_set(PreferenceConfig(), message.preference),
        adaptation=adaptation,
        online=_online_from_proto(message.online),
        distillation=_distillation_from_proto(message.distillation),
        pretraining=_set(PretrainingConfig(), message.pretraining),
        checks=replace(_set(Checks(), message.checks, "canaries"), canaries=tuple(message.checks.canaries)),
    )


def recipe_to_proto(stored: Stored[TuningRecipe]) -> recipe_pb2.TuningRecipe:
    """Prints a recipe as it is stored."""
    message = applied_recipe_to_proto(stored.value)
    message.update_time.CopyFrom(time_to_proto(stored.update_time) or message.update_time)
    message.etag = stored.etag
    return message


def applied_recipe_to_proto(recipe: TuningRecipe) -> recipe_pb2.TuningRecipe:
    """Prints a recipe as a run applies it."""
    online, distillation = asdict(recipe.online), asdict(recipe.distillation)
    online["rule"] = _Online.Rule.Value(f"RULE_{recipe.online.rule.value or 'UNSPECIFIED'}")
    distillation["source"] = _Distillation.Source.Value(f"SOURCE_{recipe.distillation.source.value}")
    return recipe_pb2.TuningRecipe(
        name=recipe.name,
        dataset=recipe.dataset,
        base_model_version=recipe.base_model_version,
        model=recipe.model,
        method=_Recipe.Method.Value(f"METHOD_{recipe.method.value}"),
        start_from=_Recipe.StartFrom.Value(f"START_FROM_{recipe.start_from.value}"),
        replay_ratio=recipe.replay_ratio,
        lora=recipe_pb2.LoraConfig(**asdict(recipe.lora)),
        optimization=recipe_pb2.Optimization(**asdict(recipe.optimization)),
        preference=recipe_pb2.PreferenceConfig(**asdict(recipe.preference)),
        adaptation=_Recipe.Adaptation.Value(f"ADAPTATION_{recipe.adaptation.value}"),
        online=_Online(**online),
        distillation=_Distillation(**distillation),
        pretraining=recipe_pb2.PretrainingConfig(**asdict(recipe.pretraining)),
        checks=recipe_pb2.Checks(**asdict(recipe.checks)),
    )


def _online_from_proto(message: recipe_pb2.OnlineConfig) -> OnlineConfig:
    rule = _Online.Rule.Name(message.rule).removeprefix("RULE_") if message.rule else ""
    return replace(_set(OnlineConfig(), message, "rule"), rule=Rule(rule))


def _distillation_from_proto(message: recipe_pb2.DistillationConfig) -> DistillationConfig:
    source = TeacherSource.LOGITS
    if message.source:
        source = TeacherSource(_Distillation.Source.Name(message.source).removeprefix("SOURCE_"))
    return replace(_set(DistillationConfig(), message, "source"), source=source)


def _set(default: T, message: Any, *but: str) -> T:
    """The defaults with the fields of the same name that the message has set, all `but` some."""
    values: dict[str, Any] = {}
    for known in fields(default):  # type: ignore[arg-type]  # Only given dataclasses.
        value = getattr(message, known.name) if known.name not in but else None
        if value:
            values[known.name] = value
    return replace(default, **values)  # type: ignore[type-var]  # As above.
