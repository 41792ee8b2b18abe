"""Between the trainer's domain and `mainspring.training.v1`; pure functions."""

from __future__ import annotations

from mainspring.training.v1 import run_pb2, tracking_pb2
from mainspring_svckit.mapping import artifact_to_proto, failure_to_proto, progress_to_proto, time_to_proto
from mainspring_trainer.domain.runs import TrainingMetric, TrainingResult, TrainingRun
from mainspring_trainer.transport import tracking


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
        measures=metric.measures,
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
