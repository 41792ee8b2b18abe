"""What the registry reacts to; one function per durable consumer."""

from __future__ import annotations

from mainspring.events.v1 import data_events_pb2, evaluation_events_pb2, inference_events_pb2, training_events_pb2
from mainspring_eventkit.cloudevents import Event
from mainspring_registry.application.catalogue import Catalogue, TrainedAdapter
from mainspring_registry.application.cycles import Cycles
from mainspring_registry.application.gate import Gate
from mainspring_registry.application.lineage import Lineages
from mainspring_registry.application.releases import Releases
from mainspring_registry.domain.catalogue import Lineage
from mainspring_registry.domain.cycles import CycleStep
from mainspring_registry.domain.data import DatasetFacts, DataSource
from mainspring_registry.domain.gate import Evidence
from mainspring_svckit.mapping import artifact_from_proto, fidelity_from_proto, scorer_result_from_proto
from mainspring_svckit.names import SourceName

_MAX_SOURCES = 2000
"""Sources that the event of a dataset version names at most."""


class Reactions:
    """Translates events and calls one use case each."""

    def __init__(
        self, catalogue: Catalogue, gate: Gate, releases: Releases, cycles: Cycles, lineages: Lineages
    ) -> None:
        self._catalogue, self._gate, self._releases = catalogue, gate, releases
        self._cycles, self._lineages = cycles, lineages

    async def on_run_succeeded(self, event: Event) -> None:
        """A run made an adapter: it becomes a version."""
        data = event.data
        assert isinstance(data, training_events_pb2.TrainingRunSucceeded)
        await self._catalogue.register_adapter(
            TrainedAdapter(
                model=data.model,
                base_model_version=data.base_model_version,
                artifacts={role: artifact_from_proto(artifact) for role, artifact in data.artifacts.items()},
                lineage=Lineage(
                    training_run=data.training_run,
                    dataset_version=data.dataset_version,
                    dataset_root_sha256=data.dataset_root_sha256,
                    recipe_sha256=data.recipe_sha256,
                    parent_model_version=data.parent_model_version,
                    origin=f"trained by {data.tuning_recipe}",
                    environment=dict(data.environment),
                ),
                cycle=event.cycle,
                tuning_recipe=data.tuning_recipe,
                author=data.author,
            )
        )

    async def on_evaluation_completed(self, event: Event) -> None:
        """A version was measured: the gate decides."""
        data = event.data
        assert isinstance(data, evaluation_events_pb2.EvaluationRunCompleted)
        evidence = Evidence(
            evaluation_run=data.evaluation_run,
            candidate_manifest_sha256=data.candidate_manifest_sha256,
            baseline=data.baseline,
            results=tuple(scorer_result_from_proto(result) for result in data.results),
            items=data.items,
            fidelity=fidelity_from_proto(data.fidelity),
            dataset_version=data.dataset_version,
            suite_sha256=data.suite_sha256,
            dataset_root_sha256=data.dataset_root_sha256,
            candidate_unit_sha256=data.candidate_unit_sha256,
            baseline_unit_sha256=data.baseline_unit_sha256,
        )
        judges = tuple(data.judge_model_versions)
        await self._gate.apply(data.candidate, data.evaluation_suite, evidence, event.cycle, judges)

    async def on_evaluation_failed(self, event: Event) -> None:
        """A version could not be measured: it is not released."""
        data = event.data
        assert isinstance(data, evaluation_events_pb2.EvaluationRunFailed)
        reason = f"evaluation failed: {data.reason}: {data.message}"
        await self._gate.refuse_unmeasured(data.candidate, reason, event.cycle)

    async def on_promoted(self, event: Event) -> None:
        """A release gets all traffic: its version is the champion."""
        data = event.data
        assert isinstance(data, inference_events_pb2.RolloutPromoted)
        await self._releases.promoted(data.release, data.model_version)

    async def on_rolled_back(self, event: Event) -> None:
        """A release's roll-out failed: the release before is active again."""
        data = event.data
        assert isinstance(data, inference_events_pb2.RolloutRolledBack)
        await self._releases.rolled_back(data.release, data.reason)

    async def on_answered(self, event: Event) -> None:
        """A model answered: its answer can be traced back."""
        data = event.data
        assert isinstance(data, inference_events_pb2.ResponseCompleted)
        await self._lineages.answered(event.project, data.answer, data.model_version, data.release)

    async def on_dataset_published(self, event: Event) -> None:
        """A dataset has a new version: it can be traced back to its sources."""
        data = event.data
        assert isinstance(data, data_events_pb2.DatasetVersionPublished)
        facts = DatasetFacts(
            version=data.dataset_version,
            ingestion=data.ingestion,
            recipe=data.ingestion_recipe,
            sources=tuple(DataSource(str(SourceName(event.project, digest))) for digest in data.source_sha256s),
            supersedes=data.supersedes,
            recipe_version=data.ingestion_recipe_version,
        )
        await self._lineages.published(event.project, facts, whole=len(facts.sources) < _MAX_SOURCES)

    async def on_any(self, event: Event) -> None:
        """Something happened in a turn of the loop: it is drawn."""
        step = CycleStep(event.type, event.subject, event.id, event.time)
        await self._cycles.record(event.project, event.cycle, step)
