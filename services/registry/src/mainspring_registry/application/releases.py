"""Use cases of releases: made, taken back, rolled back."""

from __future__ import annotations

from dataclasses import replace

from mainspring_registry.application.catalogue import Catalogue
from mainspring_registry.application.judging import Judgement, Judging
from mainspring_registry.application.ledger import Ledger
from mainspring_registry.application.ports import Ports
from mainspring_registry.application.proofs import Proofs
from mainspring_registry.domain.approvals import INFERENCE, Actor
from mainspring_registry.domain.catalogue import CHALLENGER, CHAMPION, Model, ModelVersion
from mainspring_registry.domain.digests import digest_of
from mainspring_registry.domain.gate import GateDecision, outcome_of, told_of_lost
from mainspring_registry.domain.history import HistoryKind
from mainspring_registry.domain.lineage import edges_of_decision, edges_of_release
from mainspring_registry.domain.releases import Release, ReleaseState
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import require


class Releases:
    """Everything about one model happens under the lock of its row."""

    def __init__(self, ports: Ports, catalogue: Catalogue) -> None:
        self._ports, self._catalogue, self._proofs = ports, catalogue, Proofs(ports)
        self._judging, self._ledger = Judging(ports), Ledger(ports)

    async def create(self, model_name: str, version_name: str, actor: Actor) -> Release:
        """Releases a version by hand, when the gate allows it now.

        Raises:
            PreconditionFailed: RELEASE_NOT_ALLOWED, evidence for exactly these files against what serves now, or an
                approval, is missing or not good enough; ARTIFACTS_MISSING, the store does not hold its files whole; or
                ALREADY_ACTIVE.
            NotFound: The model or the version does not exist.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            known = await ports.versions.get(version_name)
            if known is not None:
                await self._judging.look(known.value)
            model = (await require(ports.models, "Model", model_name, lock=True)).value
            version = (await require(ports.versions, "ModelVersion", version_name)).value
            if version.model != model.name:
                raise InvalidInput(f"{version_name} is not a version of {model_name}", reason="MODEL_DIFFERS")
            policy = await self._judging.policy_of(model.name)
            if await self._judging.serves(model, version, policy):
                message = f"{version.name} is released and active already"
                raise PreconditionFailed("ALREADY_ACTIVE", message, {"release": model.active_release})
            if policy is None:
                message = f"no release policy guards {model.name}, so nothing can allow {version.name}; write one first"
                raise PreconditionFailed("RELEASE_NOT_ALLOWED", message, {"modelVersion": version.name})
            judgement = await self._judging.judge(policy, model, version, actor)
            if judgement.lost:
                message = f"{told_of_lost(judgement.lost)}, then release {version.name} again"
                raise PreconditionFailed("ARTIFACTS_MISSING", message, {"modelVersion": version.name})
            if not judgement.allowed:
                reasons = "; ".join(judgement.reasons)
                message = f"the gate does not allow {version.name} against what serves now: {reasons}"
                raise PreconditionFailed("RELEASE_NOT_ALLOWED", message, {"modelVersion": version.name})
            model, decision = await self.decide(model, version, judgement, version.cycle, actor)
            return await self.make(model, version, decision, judgement, actor)

    async def decide(
        self, model: Model, version: ModelVersion, judgement: Judgement, cycle: str, actor: Actor
    ) -> tuple[Model, GateDecision]:
        """Writes down what the gate says of the evidence; the same policy and evidence give the decision that is there.
        Joins the ambient transaction of a locked model.
        """
        ports, policy_sha256 = self._ports, digest_of(judgement.policy)
        evidence = [judgement.records[suite].evidence for suite in judgement.policy.suites]
        runs = tuple(one.evaluation_run for one in evidence)
        outcome = outcome_of(judgement.rules)
        for item in (await ports.decisions.list(model.name, Page(500, None))).items:
            known = item.value
            if (known.model_version, known.evaluation_runs, known.policy_sha256, known.outcome) == (
                version.name, runs, policy_sha256, outcome,
            ):  # fmt: skip
                return model, known
        await ports.numbers.require_current()
        model, name = model.with_decision()
        decision = GateDecision(
            name=name,
            model=model.name,
            model_version=version.name,
            manifest_sha256=version.manifest.sha256,
            outcome=outcome,
            rules=judgement.rules,
            evidence=evidence[0],
            cycle=cycle,
            create_time=ports.clock.now(),
            further_evidence=tuple(evidence[1:]),
            policy_sha256=policy_sha256,
        )
        kind, digest = HistoryKind.DECIDED, digest_of(decision)
        model = await self._ledger.write(
            model, kind, name, actor, version=version.name, outcome=outcome.value, sha256=digest
        )
        await ports.models.put(model)
        await ports.decisions.add(decision)
        await ports.lineage.add(edges_of_decision(decision))
        return model, decision

    async def make(
        self, model: Model, version: ModelVersion, decision: GateDecision, judgement: Judgement, actor: Actor
    ) -> Release:
        """Makes the release that a decision allows. Joins the ambient transaction of a locked model."""
        ports = self._ports
        await ports.numbers.require_current()
        previous = model.active_release
        head = model.history_sha256
        model = await self.supersede(model, actor)
        model, name = model.with_release()
        release = Release(
            name=name,
            model=model.name,
            model_version=version.name,
            gate_decision=decision.name,
            previous_release=previous,
            cycle=decision.cycle,
            create_time=ports.clock.now(),
            released_by=actor.subject,
            approvals=tuple(approval.name for approval in judgement.approvals),
            unit=judgement.policy.unit,
            served_unit=judgement.unit,
        )
        proof = await self._proofs.of_release(
            release, version, decision, judgement.policy, judgement.approvals, history_sha256=head
        )
        release = replace(release, proof=proof)
        await self.keep(model, release, actor)
        await ports.announcements.released(release, version, decision)
        return release

    async def supersede(self, model: Model, actor: Actor, **notes: str) -> Model:
        """Ends what is active for something newer. Joins the ambient transaction of a locked model."""
        if not model.active_release:
            return model
        before = (await require(self._ports.releases, "Release", model.active_release)).value
        await self._ports.releases.put(before.superseded())
        return await self._ledger.write(model, HistoryKind.SUPERSEDED, before.name, actor, **notes)

    async def keep(self, model: Model, release: Release, actor: Actor, **notes: str) -> None:
        """Writes down a signed release that is active now; until its roll-out ends its version is the champion's
        challenger. Joins the ambient transaction of a locked model.
        """
        ports, version, decision = self._ports, release.model_version, release.gate_decision
        proof = release.proof.sha256 if release.proof is not None else ""
        model = await self._ledger.write(
            model, HistoryKind.RELEASED, release.name, actor, version=version, decision=decision, proof=proof, **notes
        )
        await ports.models.put(await self._challenge(model, version, actor, **notes))
        await ports.releases.add(release)
        await ports.lineage.add(edges_of_release(release))

    async def _challenge(self, model: Model, version: str, actor: Actor, **notes: str) -> Model:
        before, model = model.version_of(CHALLENGER), model.with_challenger(version)
        if model.version_of(CHALLENGER) in {None, before}:
            return model
        return await self._ledger.write(model, HistoryKind.ALIAS_MOVED, version, actor, alias=CHALLENGER, **notes)

    async def revoke(self, name: str, reason: str, actor: Actor) -> Release:
        """Takes the active release back.

        Raises:
            NotFound: There is no such release.
            IllegalTransition: It is not ACTIVE.
        """
        async with self._ports.transactions.transaction():
            release = (await require(self._ports.releases, "Release", name)).value
            return await self._end(release.model, name, ReleaseState.REVOKED, reason, actor)

    async def rolled_back(self, name: str, reason: str) -> None:
        """Hears that a release's roll-out failed; one that is not active any more stays as it is."""
        async with self._ports.transactions.transaction():
            release = (await require(self._ports.releases, "Release", name)).value
            model = (await require(self._ports.models, "Model", release.model, lock=True)).value
            if model.active_release == name:
                await self._end(release.model, name, ReleaseState.ROLLED_BACK, reason, INFERENCE)

    async def promoted(self, name: str, version: str) -> None:
        """Hears that a release gets all traffic: its version is the champion and no challenger any more, if it is still
        the active one.
        """
        async with self._ports.transactions.transaction():
            release = (await require(self._ports.releases, "Release", name)).value
            model = (await require(self._ports.models, "Model", release.model, lock=True)).value
            if model.active_release == name:
                await self._catalogue.move_alias(release.model, CHAMPION, version, INFERENCE)

    async def _end(self, model_name: str, name: str, state: ReleaseState, reason: str, actor: Actor) -> Release:
        ended, restored = await self.take_back(model_name, name, state, reason, actor)
        await self._ports.announcements.release_revoked(ended, reason, restored)
        return ended

    async def take_back(
        self, model_name: str, name: str, state: ReleaseState, reason: str, actor: Actor, **notes: str
    ) -> tuple[Release, Release | None]:
        """Ends a release without telling anybody; returns it and what is active again. Joins the ambient transaction.

        Raises:
            NotFound: There is no such release.
            IllegalTransition: It is not ACTIVE.
        """
        ports = self._ports
        model = (await require(ports.models, "Model", model_name, lock=True)).value
        release = (await require(ports.releases, "Release", name)).value
        revoked = state is ReleaseState.REVOKED
        ended = release.revoked(reason) if revoked else release.rolled_back(reason)
        kind = HistoryKind.REVOKED if revoked else HistoryKind.ROLLED_BACK
        model = await self._ledger.write(model, kind, name, actor, reason=reason, **notes)
        restored = await self._restorable(ended)
        if restored is not None:
            restored = (await ports.releases.put(restored.restored())).value
            model = model.with_champion(restored.model_version)
            model = await self._ledger.write(model, HistoryKind.RESTORED, restored.name, actor, **notes)
        else:
            model = model.without_alias(CHALLENGER)
            if model.version_of(CHAMPION) == ended.model_version:
                model = model.without_alias(CHAMPION)
        await ports.releases.put(ended)
        await ports.models.put(replace(model, active_release=restored.name if restored is not None else ""))
        return ended, restored

    async def _restorable(self, release: Release) -> Release | None:
        """The newest release before this one that was not taken back itself; none beyond one that is lost."""
        name = release.previous_release
        while name and (found := await self._ports.releases.get(name)) is not None:
            before = found.value
            if before.state is ReleaseState.SUPERSEDED:
                return before
            name = before.previous_release
        return None
