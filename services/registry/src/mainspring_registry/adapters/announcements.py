"""What the registry tells the others, as events in its outbox."""

from __future__ import annotations

from mainspring.events.v1 import registry_events_pb2 as events
from mainspring_eventkit.outbox import Outbox
from mainspring_registry.domain.catalogue import ModelVersion
from mainspring_registry.domain.gate import GateDecision
from mainspring_registry.domain.releases import Release
from mainspring_svckit.mapping import artifact_to_proto, scorer_result_to_proto, unit_to_proto
from mainspring_svckit.values import NO_UNIT


class OutboxAnnouncements:
    """`Announcements` in the outbox. Events about releases are ordered per model."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def version_registered(self, version: ModelVersion) -> None:
        event = events.ModelVersionRegistered(
            model_version=version.name,
            model=version.model,
            kind=version.kind.value,
            base_model_version=version.base_model_version,
            manifest=artifact_to_proto(version.manifest),
            dataset_version=version.lineage.dataset_version,
            training_run=version.training_run,
            proof=artifact_to_proto(version.proof) if version.proof is not None else None,
            author=version.author,
        )
        await self._outbox.emit(event, cycle=version.cycle, aggregate=version.model)

    async def released(self, release: Release, version: ModelVersion, decision: GateDecision) -> None:
        event = events.ModelReleased(
            release=release.name,
            model=release.model,
            model_version=release.model_version,
            release_number=release.number,
            manifest=artifact_to_proto(version.manifest),
            gate_decision=decision.name,
            evaluation_run=decision.evidence.evaluation_run,
            previous_release=release.previous_release,
            results=[scorer_result_to_proto(result) for result in decision.evidence.results],
            proof=artifact_to_proto(release.proof) if release.proof is not None else None,
            unit=unit_to_proto(release.served_unit or NO_UNIT),
        )
        await self._outbox.emit(event, cycle=release.cycle, aggregate=release.model)

    async def release_revoked(self, release: Release, reason: str, restored: Release | None) -> None:
        event = events.ReleaseRevoked(
            release=release.name,
            model=release.model,
            reason=reason,
            restored_release=restored.name if restored is not None else "",
            restored_model_version=restored.model_version if restored is not None else "",
        )
        await self._outbox.emit(event, cycle=release.cycle, aggregate=release.model)

    async def release_refused(
        self, version: str, model: str, decision: str, reasons: tuple[str, ...], cycle: str
    ) -> None:
        event = events.ReleaseRefused(model_version=version, model=model, gate_decision=decision, reasons=reasons)
        await self._outbox.emit(event, cycle=cycle, aggregate=model)
