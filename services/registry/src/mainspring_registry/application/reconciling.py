"""The use case after a restore: what the bus has heard and the database has not is put back, or its number is burnt.

What is put back is taken from what was signed, never from the event alone: whoever can write to the bus cannot write
into the catalogue. What cannot be put back keeps its number, so that no number means two things.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.files import Files
from mainspring_registry.application.ledger import Ledger
from mainspring_registry.application.ports import Memory, Ports, Seals
from mainspring_registry.application.releases import Releases
from mainspring_registry.domain.approvals import Actor
from mainspring_registry.domain.catalogue import Model, ModelKind, ModelVersion
from mainspring_registry.domain.history import HistoryKind
from mainspring_registry.domain.lineage import edges_of_version
from mainspring_registry.domain.reconciling import (
    Finding,
    Heard,
    HeardRefusal,
    HeardRelease,
    HeardRevocation,
    HeardVersion,
    Outcome,
    SignedManifest,
    SignedRelease,
    release_of,
    require_child,
    version_of,
)
from mainspring_registry.domain.releases import ReleaseState
from mainspring_svckit.errors import MainspringError, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.names import GateDecisionName, ModelVersionName, ReleaseName, project_of
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef

RECONCILER = Actor("reconcile")
_RECIPE = "trained by "


class _Undo(Exception):
    """Leaves the transaction without a change."""


@dataclass(frozen=True)
class _Taken:
    """What became of one event; `model` is to be kept unless it was kept already (None)."""

    model: Model | None
    outcome: Outcome
    why: str = ""


class Reconciliation:
    """Compares everything that the bus holds with the database, in one transaction."""

    def __init__(self, ports: Ports, catalogue: Catalogue, releases: Releases, memory: Memory, seals: Seals) -> None:
        self._ports, self._catalogue, self._releases = ports, catalogue, releases
        self._memory, self._seals, self._ledger, self._files = memory, seals, Ledger(ports), Files(ports)

    async def run(self, *, repair: bool) -> list[Finding]:
        """Puts back what can be, burns the numbers of the rest, and says what it did; a second run finds nothing.

        Args:
            repair: Whether it stays so; a report is the same work, undone at the end.

        Raises:
            Unavailable: The bus, the store or the database does not answer; nothing was changed.
        """
        findings: list[Finding] = []
        with suppress(_Undo):
            async with self._ports.transactions.transaction():
                first = 0
                async for heard in self._memory.unknown(whole=True):
                    first = first or heard.sequence
                    findings.append(await self._take(heard))
                if findings:
                    await self._follow_promotions(first)
                if not repair:
                    raise _Undo
        return findings

    async def _take(self, heard: Heard) -> Finding:
        fact = heard.fact
        kind = fact.kind if isinstance(fact, HeardVersion) else ModelKind.ADAPTER
        found = await self._ports.models.get(fact.model, lock=True)
        model = found.value if found is not None else await self._catalogue.ensure_model(fact.model, kind)
        match fact:
            case HeardVersion():
                taken = await self._version(model, heard, fact)
            case HeardRelease():
                taken = await self._release(model, heard, fact)
            case HeardRevocation():
                taken = await self._revocation(model, heard, fact)
            case HeardRefusal():
                taken = _Taken(_counted(model, decision=fact.name), Outcome.BURNT, "a refusal is not signed")
        if taken.model is not None:
            details = {"event": heard.event_id, "name": fact.name, "outcome": taken.outcome.value, "why": taken.why}
            model = await self._ledger.write(taken.model, HistoryKind.RECONCILED, model.name, RECONCILER, **details)
            await self._ports.models.put(model)
        await self._memory.remember(heard)
        time = heard.time.isoformat()
        return Finding(heard.event_id, heard.event_type, time, fact.model, fact.name, taken.outcome, taken.why)

    async def _version(self, model: Model, heard: Heard, fact: HeardVersion) -> _Taken:
        ports = self._ports
        counted = replace(model, versions=max(model.versions, int(ModelVersionName.parse(fact.name).version)))
        known = await ports.versions.get(fact.name)
        if known is not None:
            same = known.value.manifest.sha256 == fact.manifest.sha256
            return _Taken(counted, Outcome.REBUILT if same else Outcome.CONFLICT, "" if same else _TWICE)
        try:
            signed = await self._signed_version(fact)
            base = await ports.versions.get(fact.base_model_version) if fact.base_model_version else None
            version = version_of(heard, fact, signed, base.value if base is not None else None)
            await self._require_files(version)
        except Unavailable:
            raise
        except (MainspringError, KeyError, TypeError, ValueError) as err:
            return _Taken(counted, Outcome.BURNT, _words(err))
        await ports.versions.add(version)
        origin = version.lineage.origin
        await ports.lineage.add(edges_of_version(version, origin.removeprefix(_RECIPE) if _RECIPE in origin else ""))
        return _Taken(counted, Outcome.REBUILT)

    async def _release(self, model: Model, heard: Heard, fact: HeardRelease) -> _Taken:
        ports = self._ports
        number = int(ReleaseName.parse(fact.name).release)
        counted = replace(_counted(model, decision=fact.gate_decision), releases=max(model.releases, number))
        known = await ports.releases.get(fact.name)
        if known is not None:
            same = known.value.proof == fact.proof
            return _Taken(counted, Outcome.REBUILT if same else Outcome.CONFLICT, "" if same else _TWICE)
        try:
            if number <= model.releases:
                raise PreconditionFailed("RELEASE_PASSED", "a newer release of the model stands there already")
            signed = await self._signed_release(fact)
            version = (await require(ports.versions, "ModelVersion", fact.model_version)).value
            release = release_of(fact, signed, version)
        except Unavailable:
            raise
        except (MainspringError, KeyError, TypeError, ValueError) as err:
            return _Taken(counted, Outcome.BURNT, _words(err))
        counted = await self._releases.supersede(counted, RECONCILER, event=heard.event_id)
        counted = replace(counted, active_release=release.name)
        await self._releases.keep(counted, release, RECONCILER, event=heard.event_id)
        return _Taken(None, Outcome.REBUILT)

    async def _revocation(self, model: Model, heard: Heard, fact: HeardRevocation) -> _Taken:
        try:
            require_child(fact.model, fact.name)
            await self._releases.take_back(
                model.name, fact.name, ReleaseState.REVOKED, fact.reason, RECONCILER, event=heard.event_id
            )
        except Unavailable:
            raise
        except MainspringError as err:
            return _Taken(model, Outcome.BURNT, _words(err))
        return _Taken(None, Outcome.REBUILT)

    async def _follow_promotions(self, after: int) -> None:
        """Points champions where roll-outs of releases that were put back had led."""
        async for release, version in self._memory.promotions(after):
            with suppress(NotFound):
                await self._releases.promoted(release, version)

    async def _signed_version(self, fact: HeardVersion) -> SignedManifest:
        return await self._seals.version(await self._bundle(fact.name, fact.proof))

    async def _signed_release(self, fact: HeardRelease) -> SignedRelease:
        return await self._seals.release(await self._bundle(fact.name, fact.proof))

    async def _bundle(self, name: str, proof: ArtifactRef | None) -> bytes:
        if proof is None:
            raise PreconditionFailed("PROOF_MISSING", "the event names no signed manifest")
        return await self._ports.files.read(str(project_of(name)), proof)

    async def _require_files(self, version: ModelVersion) -> None:
        project = str(project_of(version.name))
        files = {**version.artifacts, "manifest.json": version.manifest}
        missing = await self._files.missing(project, files)
        if missing:
            raise PreconditionFailed("ARTIFACTS_MISSING", f"the artifact store lacks {', '.join(missing)}")


_TWICE = "the number stands for something else in this database; nothing was changed"


def _counted(model: Model, *, decision: str) -> Model:
    number = int(GateDecisionName.parse(decision).decision) if decision else 0
    return replace(model, decisions=max(model.decisions, number))


def _words(error: Exception) -> str:
    if isinstance(error, MainspringError):
        return f"{error.reason}: {error.message}"
    return f"PROOF_INVALID: it lacks what this release reads ({type(error).__name__})"
