"""What the bus remembers of the registry, and signed manifests read back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

from mainspring.common.v1 import artifact_pb2
from mainspring.events.v1 import inference_events_pb2
from mainspring.events.v1 import registry_events_pb2 as events
from mainspring_eventkit.catalog import type_of
from mainspring_eventkit.memory import StreamMemory, Told
from mainspring_proof import bundles, statements
from mainspring_proof.keys import TrustedKeys
from mainspring_registry.domain.catalogue import ModelKind
from mainspring_registry.domain.reconciling import (
    Heard,
    HeardRefusal,
    HeardRelease,
    HeardRevocation,
    HeardVersion,
    SignedManifest,
    SignedRelease,
)
from mainspring_svckit.logs import get_logger
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.values import ArtifactRef

log = get_logger(__name__)


class BusMemory:
    """`Memory` in the event stream."""

    def __init__(self, stream: StreamMemory) -> None:
        self._stream = stream
        self._told: dict[str, Told] = {}

    async def unknown(self, *, whole: bool) -> AsyncIterator[Heard]:
        async for told in self._stream.unknown(whole=whole):
            fact = _fact_of(told)
            if fact is not None:
                event = told.event
                self._told[event.id] = told
                yield Heard(event.id, event.type, event.time, event.cycle, told.sequence, fact)

    async def remember(self, heard: Heard) -> None:
        await self._stream.put_back(self._told.pop(heard.event_id), aggregate=heard.fact.model)

    async def promotions(self, after: int) -> AsyncIterator[tuple[str, str]]:
        async for told in self._stream.events(type_of(inference_events_pb2.RolloutPromoted), after=after):
            data = told.event.data
            if isinstance(data, inference_events_pb2.RolloutPromoted):
                yield data.release, data.model_version


class TrustedSeals:
    """`Seals` by the trusted keys."""

    def __init__(self, trusted: TrustedKeys) -> None:
        self._trusted = trusted

    async def version(self, bundle: bytes) -> SignedManifest:
        statement = await asyncio.to_thread(bundles.verify, bundle, self._trusted)
        signed = statements.read_version(statement)
        return SignedManifest(signed.name, signed.manifest_sha256, signed.manifest)

    async def release(self, bundle: bytes) -> SignedRelease:
        statement = await asyncio.to_thread(bundles.verify, bundle, self._trusted)
        signed = statements.read_release(statement)
        time = datetime.fromisoformat(str(statement.predicate["timeVerified"]))
        return SignedRelease(signed.name, signed.model_version, signed.manifest_sha256, time, signed.details)


def _fact_of(told: Told) -> HeardVersion | HeardRelease | HeardRevocation | HeardRefusal | None:
    """What an event says; None for one of a newer release, of a type or a kind that this one does not know."""
    try:
        return _read(told.event.data)
    except ValueError:
        log.warning("event_unreadable", sequence=told.sequence)
        return None


def _read(event: object) -> HeardVersion | HeardRelease | HeardRevocation | HeardRefusal | None:
    match event:
        case events.ModelVersionRegistered() as data:
            return HeardVersion(
                name=data.model_version,
                model=data.model,
                kind=ModelKind(data.kind),
                base_model_version=data.base_model_version,
                manifest=artifact_from_proto(data.manifest),
                proof=_optional(data.proof),
                author=data.author,
            )
        case events.ModelReleased() as data:
            return HeardRelease(data.release, data.model, data.model_version, data.gate_decision, _optional(data.proof))
        case events.ReleaseRevoked() as data:
            return HeardRevocation(data.release, data.model, data.reason)
        case events.ReleaseRefused() as data:
            return HeardRefusal(data.gate_decision, data.model)
        case _:
            return None


def _optional(artifact: artifact_pb2.Artifact) -> ArtifactRef | None:
    return artifact_from_proto(artifact) if artifact.sha256 else None
