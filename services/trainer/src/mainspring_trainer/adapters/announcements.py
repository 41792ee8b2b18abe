"""What the trainer tells the others, as events in its outbox."""

from __future__ import annotations

from mainspring.events.v1 import training_events_pb2 as events
from mainspring_eventkit.outbox import Outbox
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_trainer.domain.runs import TrainingRun


class OutboxAnnouncements:
    """`Announcements` in the outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def run_succeeded(self, run: TrainingRun) -> None:
        assert run.result is not None
        assert run.inputs is not None
        event = events.TrainingRunSucceeded(
            training_run=run.name,
            model=run.recipe.model,
            base_model_version=run.recipe.base_model_version,
            parent_model_version=run.parent_model_version,
            dataset_version=run.dataset_version,
            dataset_root_sha256=run.inputs.dataset.root_sha256,
            tuning_recipe=run.recipe.name,
            recipe_sha256=run.recipe.sha256,
            artifacts={role: artifact_to_proto(artifact) for role, artifact in run.result.artifacts.items()},
            best_validation_loss=run.result.best_validation_loss,
            steps=run.result.steps,
            author=run.author,
            environment=_environment_of(run),
        )
        await self._outbox.emit(event, cycle=run.cycle)

    async def run_failed(self, run: TrainingRun) -> None:
        event = events.TrainingRunFailed(
            training_run=run.name, model=run.recipe.model, reason=run.error_reason, message=run.error_message
        )
        await self._outbox.emit(event, cycle=run.cycle)

    async def run_cancelled(self, run: TrainingRun) -> None:
        event = events.TrainingRunCancelled(training_run=run.name, model=run.recipe.model)
        await self._outbox.emit(event, cycle=run.cycle)


def _environment_of(run: TrainingRun) -> dict[str, str]:
    """Versions of what computed, and digests of the code and of everything that was installed beside it."""
    if run.fingerprint is None:
        return {}
    made_in = run.fingerprint.environment
    digests = {"code_sha256": made_in.code_sha256, "environment_sha256": made_in.environment_sha256}
    return {**made_in.versions, **{name: digest for name, digest in digests.items() if digest}}
