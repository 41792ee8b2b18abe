"""A run as experiment trackers see it: flat settings, tags, and values by step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mainspring_trainer.domain.runs import TrainingMetric, TrainingRun

RUN_TAG = "mainspring.training_run"
_OUTSIDE = re.compile(r"[^\w\-. /]")


def tags_of(run: TrainingRun) -> dict[str, str]:
    """What the run is and what it is made from."""
    tags = {
        RUN_TAG: run.name,
        "mainspring.dataset_version": run.dataset_version,
        "mainspring.base_model_version": run.recipe.base_model_version,
        "mainspring.recipe_sha256": run.recipe.sha256,
        "mainspring.cycle": run.cycle,
    }
    if run.fingerprint is not None:
        tags["mainspring.code_sha256"] = run.fingerprint.environment.code_sha256
        tags["mainspring.data_sha256"] = run.fingerprint.data_sha256
        tags["mainspring.environment_sha256"] = run.fingerprint.environment.environment_sha256
    return {key: value for key, value in tags.items() if value}


def values_of(metric: TrainingMetric) -> dict[str, float]:
    """What was measured at a step, by name: what every run has, and what its method measures beside the loss."""
    values: dict[str, float | None] = {
        **metric.measures,
        "train_loss": metric.train_loss if metric.step else None,
        "validation_loss": metric.validation_loss,
        "learning_rate": metric.learning_rate,
        "tokens_per_second": metric.tokens_per_second,
        "system/cpu_percent": metric.system.cpu_percent if metric.system else None,
        "system/memory_bytes": metric.system.memory_bytes if metric.system else None,
    }
    return {key: float(value) for key, value in values.items() if value is not None}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one level, names joined by dots."""
    found: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType] - JSON.
        else:
            found[_OUTSIDE.sub("_", f"{prefix}{key}")] = str(item)
    return found
