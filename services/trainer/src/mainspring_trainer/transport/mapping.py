"""Between the trainer's domain and `mainspring.training.v1`; pure functions."""

from __future__ import annotations

from dataclasses import asdict

from mainspring.training.v1 import recipe_pb2, run_pb2, tracking_pb2
from mainspring_svckit.mapping import artifact_to_proto, failure_to_proto, progress_to_proto, time_to_proto
from mainspring_svckit.repository import Stored
from mainspring_trainer.domain.recipes import (
    LoraConfig,
    Method,
    Optimization,
    PreferenceConfig,
    StartFrom,
    TuningRecipe,
)
from mainspring_trainer.domain.runs import TrainingMetric, TrainingResult, TrainingRun
from mainspring_trainer.transport import tracking

_DEFAULT = Optimization()


def recipe_from_proto(message: recipe_pb2.TuningRecipe) -> TuningRecipe:
    """Reads a recipe, with defaults for what is not set."""
    start = recipe_pb2.TuningRecipe.StartFrom.Name(message.start_from).removeprefix("START_FROM_")
    rank = message.lora.rank or LoraConfig().rank
    method = Method(recipe_pb2.TuningRecipe.Method.Name(message.method).removeprefix("METHOD_"))
    return TuningRecipe(
        name=message.name,
        dataset=message.dataset,
        base_model_version=message.base_model_version,
        model=message.model,
        method=method,
        start_from=StartFrom(start) if message.start_from else StartFrom.BASE,
        replay_ratio=message.replay_ratio or 1.0,
        lora=LoraConfig(rank=rank, alpha=message.lora.alpha or 2.0 * rank, dropout=message.lora.dropout),
        optimization=_optimization_from_proto(message.optimization, method),
        preference=_preference_from_proto(message.preference),
    )


def recipe_to_proto(stored: Stored[TuningRecipe]) -> recipe_pb2.TuningRecipe:
    """Prints a recipe as it is stored."""
    message = applied_recipe_to_proto(stored.value)
    message.update_time.CopyFrom(time_to_proto(stored.update_time) or message.update_time)
    message.etag = stored.etag
    return message


def applied_recipe_to_proto(recipe: TuningRecipe) -> recipe_pb2.TuningRecipe:
    """Prints a recipe as a run applies it."""
    return recipe_pb2.TuningRecipe(
        name=recipe.name,
        dataset=recipe.dataset,
        base_model_version=recipe.base_model_version,
        model=recipe.model,
        method=recipe_pb2.TuningRecipe.Method.Value(f"METHOD_{recipe.method.value}"),
        start_from=recipe_pb2.TuningRecipe.StartFrom.Value(f"START_FROM_{recipe.start_from.value}"),
        replay_ratio=recipe.replay_ratio,
        lora=recipe_pb2.LoraConfig(rank=recipe.lora.rank, alpha=recipe.lora.alpha, dropout=recipe.lora.dropout),
        optimization=_optimization_to_proto(recipe.optimization),
        preference=recipe_pb2.PreferenceConfig(**asdict(recipe.preference)),
    )


def run_to_proto(run: TrainingRun) -> run_pb2.TrainingRun:
    """Prints a run."""
    return run_pb2.TrainingRun(
        name=run.name,
        tuning_recipe=run.recipe.name,
        recipe_sha256=run.recipe.sha256,
        dataset_version=run.dataset_version,
        base_model_version=run.recipe.base_model_version,
        parent_model_version=run.parent_model_version,
        model=run.recipe.model,
        state=run_pb2.TrainingRun.State.Value(f"STATE_{run.state.value}"),
        progress=progress_to_proto(run.progress),
        latest_metric=metric_to_proto(run.latest_metric) if run.latest_metric is not None else None,
        result=_result_to_proto(run.result) if run.result is not None else None,
        error=failure_to_proto(run.error_reason, run.error_message),
        cycle=run.cycle,
        attempt=run.attempt,
        create_time=time_to_proto(run.create_time),
        start_time=time_to_proto(run.start_time),
        end_time=time_to_proto(run.end_time),
        priority=run.priority,
        pausing=run.pause_requested,
        usage=tracking.usage_to_proto(run.usage),
        fingerprint=tracking.fingerprint_to_proto(run.fingerprint) if run.fingerprint is not None else None,
        signals=[tracking.signal_to_proto(signal) for signal in run.signals],
        checkpoints=[
            tracking_pb2.TrainingCheckpoint(step=c.step, sha256=c.file.sha256, size_bytes=c.file.size_bytes)
            for c in run.checkpoints
        ],
        first_step_time=time_to_proto(run.first_step_time),
        study=run.study,
    )


def metric_to_proto(metric: TrainingMetric) -> run_pb2.TrainingMetric:
    """Prints a metric."""
    return run_pb2.TrainingMetric(
        step=metric.step,
        epoch=metric.epoch,
        train_loss=metric.train_loss,
        validation_loss=metric.validation_loss,
        learning_rate=metric.learning_rate,
        tokens_per_second=metric.tokens_per_second,
        time=time_to_proto(metric.time),
        system=tracking.system_to_proto(metric.system) if metric.system is not None else None,
    )


def _result_to_proto(result: TrainingResult) -> run_pb2.TrainingResult:
    return run_pb2.TrainingResult(
        artifacts={role: artifact_to_proto(artifact) for role, artifact in result.artifacts.items()},
        best_step=result.best_step,
        best_validation_loss=result.best_validation_loss,
        initial_validation_loss=result.initial_validation_loss,
        steps=result.steps,
        tokens=result.tokens,
        stopped_early=result.stopped_early,
        rows_too_long=result.rows_too_long,
    )


def _preference_from_proto(message: recipe_pb2.PreferenceConfig) -> PreferenceConfig:
    default = PreferenceConfig()
    return PreferenceConfig(
        beta=message.beta or default.beta,
        desirable_weight=message.desirable_weight or default.desirable_weight,
        undesirable_weight=message.undesirable_weight or default.undesirable_weight,
    )


def _optimization_from_proto(message: recipe_pb2.Optimization, method: Method) -> Optimization:
    return Optimization(
        learning_rate=message.learning_rate or method.default_learning_rate,
        epochs=message.epochs or _DEFAULT.epochs,
        batch_rows=message.batch_rows or _DEFAULT.batch_rows,
        max_sequence_tokens=message.max_sequence_tokens or _DEFAULT.max_sequence_tokens,
        warmup_percent=message.warmup_percent or _DEFAULT.warmup_percent,
        validate_every_steps=message.validate_every_steps,
        patience=message.patience or _DEFAULT.patience,
        max_steps=message.max_steps,
        seed=message.seed,
    )


def _optimization_to_proto(optimization: Optimization) -> recipe_pb2.Optimization:
    return recipe_pb2.Optimization(
        learning_rate=optimization.learning_rate,
        epochs=optimization.epochs,
        batch_rows=optimization.batch_rows,
        max_sequence_tokens=optimization.max_sequence_tokens,
        warmup_percent=optimization.warmup_percent,
        validate_every_steps=optimization.validate_every_steps,
        patience=optimization.patience,
        max_steps=optimization.max_steps,
        seed=optimization.seed,
    )
