"""Use cases of the gate and of releases."""

from __future__ import annotations

from dataclasses import replace

from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.ports import Ports
from mainspring_registry.application.proofs import Proofs
from mainspring_registry.domain.catalogue import CHAMPION, Model, ModelVersion
from mainspring_registry.domain.gate import Evidence, GateDecision, Outcome, ReleasePolicy, judge, outcome_of
from mainspring_registry.domain.lineage import edges_of_decision, edges_of_evaluation, edges_of_release
from mainspring_registry.domain.releases import Release, ReleaseState
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import ModelName, ModelVersionName
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import Stored, require


class Releases:
    """Use cases of policies, decisions and releases. Everything about one model happens under the lock of its row."""

    def __init__(self, ports: Ports, catalogue: Catalogue) -> None:
        self._ports, self._catalogue, self._proofs = ports, catalogue, Proofs(ports)

    async def put_policy(self, policy: ReleasePolicy, *, etag: str, allow_missing: bool) -> Stored[ReleasePolicy]:
        """Writes a policy.

        Raises:
            NotFound: It is missing and `allow_missing` is not set.
            PreconditionFailed: The model has another policy already.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            if not allow_missing:
                await require(ports.policies, "ReleasePolicy", policy.name)
            others = [p.name for p in await ports.policies.find("model", policy.model) if p.name != policy.name]
            if others:
                message = f"{policy.model} is guarded by {others[0]} already; change that one"
                raise PreconditionFailed("MODEL_HAS_POLICY", message, {"releasePolicy": others[0]})
            return await ports.policies.put(policy, etag=etag)

    async def apply_gate(self, candidate: str, suite: str, evidence: Evidence, cycle: str) -> GateDecision | None:
        """Decides on a version that was measured, and releases it if it may be.

        Returns:
            The decision; None when no policy asks for this suite's word.

        Raises:
            NotFound: The version is not in the catalogue.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            version = (await require(ports.versions, "ModelVersion", candidate)).value
            await ports.lineage.add(
                edges_of_evaluation(evidence.evaluation_run, candidate, evidence.baseline, evidence.dataset_version)
            )
            model = (await require(ports.models, "Model", version.model, lock=True)).value
            policy = next(iter(await ports.policies.find("model", model.name)), None)
            if policy is None or policy.evaluation_suite != suite:
                return None
            rules = judge(
                policy,
                evidence,
                manifest_sha256=version.manifest.sha256,
                wanted_baseline=await self._serving_version(model) or version.base_model_version,
            )
            model, name = model.with_decision()
            decision = GateDecision(
                name=name,
                model=model.name,
                model_version=version.name,
                manifest_sha256=version.manifest.sha256,
                outcome=outcome_of(rules),
                rules=rules,
                evidence=evidence,
                cycle=cycle,
                create_time=ports.clock.now(),
            )
            await ports.models.put(model)
            await ports.decisions.add(decision)
            await ports.lineage.add(edges_of_decision(decision))
            if decision.outcome is Outcome.ALLOWED:
                await self._release(model, version, decision)
            else:
                await ports.announcements.release_refused(
                    version.name, model.name, decision.name, decision.reasons, cycle
                )
            return decision

    async def refuse_unmeasured(self, candidate: str, reason: str, cycle: str) -> None:
        """Says that a version is not released because it could not be measured."""
        model = str(ModelName(*_ids(candidate)))
        async with self._ports.transactions.transaction():
            await self._ports.announcements.release_refused(candidate, model, "", (reason,), cycle)

    async def create(self, model_name: str, version_name: str) -> Release:
        """Releases a version by hand, on a decision of the gate.

        Raises:
            PreconditionFailed: RELEASE_NOT_ALLOWED, no decision allows exactly these files against what serves now;
                or ALREADY_ACTIVE.
            NotFound: The model or the version does not exist.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            model = (await require(ports.models, "Model", model_name, lock=True)).value
            version = (await require(ports.versions, "ModelVersion", version_name)).value
            serving = await self._serving_version(model)
            if serving == version.name:
                message = f"{version.name} is released and active already"
                raise PreconditionFailed("ALREADY_ACTIVE", message, {"release": model.active_release})
            decision = await self._allowing_decision(model, version, serving or version.base_model_version)
            if decision is None:
                message = (
                    f"no gate decision allows {version.name} against what serves now;"
                    " evaluate it under the model's release policy"
                )
                raise PreconditionFailed("RELEASE_NOT_ALLOWED", message, {"modelVersion": version.name})
            return await self._release(model, version, decision)

    async def revoke(self, name: str, reason: str) -> Release:
        """Takes the active release back.

        Raises:
            NotFound: There is no such release.
            IllegalTransition: It is not ACTIVE.
        """
        async with self._ports.transactions.transaction():
            release = (await require(self._ports.releases, "Release", name)).value
            return await self._end(release.model, name, ReleaseState.REVOKED, reason)

    async def rolled_back(self, name: str, reason: str) -> None:
        """Hears that a release's roll-out failed; one that is not active any more stays as it is."""
        async with self._ports.transactions.transaction():
            release = (await require(self._ports.releases, "Release", name)).value
            model = (await require(self._ports.models, "Model", release.model, lock=True)).value
            if model.active_release == name:
                await self._end(release.model, name, ReleaseState.ROLLED_BACK, reason)

    async def promoted(self, name: str, version: str) -> None:
        """Hears that a release gets all traffic: its version is the champion, if it is still the active one."""
        async with self._ports.transactions.transaction():
            release = (await require(self._ports.releases, "Release", name)).value
            model = (await require(self._ports.models, "Model", release.model, lock=True)).value
            if model.active_release == name:
                await self._catalogue.move_alias(release.model, CHAMPION, version)

    async def _release(self, model: Model, version: ModelVersion, decision: GateDecision) -> Release:
        ports = self._ports
        previous = model.active_release
        if previous:
            before = (await require(ports.releases, "Release", previous)).value
            await ports.releases.put(before.superseded())
        model, name = model.with_release()
        release = Release(
            name=name,
            model=model.name,
            model_version=version.name,
            gate_decision=decision.name,
            previous_release=previous,
            cycle=decision.cycle,
            create_time=ports.clock.now(),
        )
        policy = next(iter(await ports.policies.find("model", model.name)), None)
        release = replace(release, proof=await self._proofs.of_release(release, version, decision, policy))
        await ports.models.put(model)
        await ports.releases.add(release)
        await ports.lineage.add(edges_of_release(release))
        await ports.announcements.released(release, version, decision)
        return release

    async def _end(self, model_name: str, name: str, state: ReleaseState, reason: str) -> Release:
        ports = self._ports
        model = (await require(ports.models, "Model", model_name, lock=True)).value
        release = (await require(ports.releases, "Release", name)).value
        ended = release.revoked(reason) if state is ReleaseState.REVOKED else release.rolled_back(reason)
        restored = await self._restorable(ended)
        if restored is not None:
            restored = (await ports.releases.put(restored.restored())).value
            model = model.with_alias(CHAMPION, restored.model_version)
        await ports.releases.put(ended)
        await ports.models.put(replace(model, active_release=restored.name if restored is not None else ""))
        await ports.announcements.release_revoked(ended, reason, restored)
        return ended

    async def _restorable(self, release: Release) -> Release | None:
        """The newest release before this one that was not taken back itself."""
        name = release.previous_release
        while name:
            before = (await require(self._ports.releases, "Release", name)).value
            if before.state is ReleaseState.SUPERSEDED:
                return before
            name = before.previous_release
        return None

    async def _serving_version(self, model: Model) -> str:
        if not model.active_release:
            return ""
        return (await require(self._ports.releases, "Release", model.active_release)).value.model_version

    async def _allowing_decision(self, model: Model, version: ModelVersion, baseline: str) -> GateDecision | None:
        listed = await self._ports.decisions.list(model.name, Page(500, None))
        for item in listed.items:
            decision = item.value
            fits = decision.manifest_sha256 == version.manifest.sha256 and decision.evidence.baseline == baseline
            if fits and decision.model_version == version.name and decision.outcome is Outcome.ALLOWED:
                return decision
        return None


def _ids(version: str) -> tuple[str, str]:
    name = ModelVersionName.parse(version)
    return name.project, name.model
