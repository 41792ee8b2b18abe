"""Use cases of the gate: policies, evidence, approvals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mainspring_registry.application.judging import Judgement, Judging
from mainspring_registry.application.ledger import Ledger
from mainspring_registry.application.ports import Ports
from mainspring_registry.application.releases import Releases
from mainspring_registry.application.units import Units
from mainspring_registry.domain.approvals import GATE, Actor, Approval, check_approver
from mainspring_registry.domain.digests import digest_of
from mainspring_registry.domain.gate import Evidence, EvidenceRecord, GateDecision, Outcome
from mainspring_registry.domain.history import HistoryKind
from mainspring_registry.domain.lineage import edges_of_approval, edges_of_evaluation
from mainspring_registry.domain.policies import ReleasePolicy
from mainspring_registry.domain.releases import Release
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import ApprovalName, ModelName, ModelVersionName
from mainspring_svckit.repository import Stored, require
from mainspring_svckit.values import NO_UNIT, ServedUnit


@dataclass(frozen=True)
class UnitsOfModel:
    """What goes live with a model's next release, and what serves now."""

    next: ServedUnit
    active: ServedUnit
    active_model_version: str


class Gate:
    """Everything about one model happens under the lock of its row."""

    def __init__(self, ports: Ports, releases: Releases) -> None:
        self._ports, self._releases = ports, releases
        self._judging, self._ledger, self._units = Judging(ports), Ledger(ports), Units(ports)

    async def put_policy(
        self, policy: ReleasePolicy, *, etag: str, allow_missing: bool, actor: Actor
    ) -> Stored[ReleasePolicy]:
        """Writes a policy.

        Raises:
            NotFound: It is missing and `allow_missing` is not set.
            InvalidInput: POLICY_INVALID, it contradicts itself; UNIT_NOT_SERVABLE, no door can apply its unit.
            PreconditionFailed: The model has another policy already.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        policy.check()
        ports = self._ports
        async with ports.transactions.transaction():
            model = await ports.models.get(policy.model, lock=True)
            await self._units.served(policy.unit)
            if not allow_missing:
                await require(ports.policies, "ReleasePolicy", policy.name)
            others = [p.name for p in await ports.policies.find("model", policy.model) if p.name != policy.name]
            if others:
                message = f"{policy.model} is guarded by {others[0]} already; change that one"
                raise PreconditionFailed("MODEL_HAS_POLICY", message, {"releasePolicy": others[0]})
            before = await ports.policies.get(policy.name)
            stored = await ports.policies.put(policy, etag=etag)
            if model is not None and (before is None or before.value != policy):
                kind, digest = HistoryKind.POLICY_WRITTEN, digest_of(policy)
                await ports.models.put(await self._ledger.write(model.value, kind, policy.name, actor, sha256=digest))
            return stored

    async def apply(
        self, candidate: str, suite: str, evidence: Evidence, cycle: str, judges: Sequence[str] = ()
    ) -> GateDecision | None:
        """Hears what was measured of a version, and which versions judged; decides when every suite of the policy has
        had its word, and releases the version if it may be.

        Returns:
            The decision; None when no policy asks for this suite's word, other suites are still to come, or the version
            serves already and is only watched.

        Raises:
            NotFound: The version is not in the catalogue.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            version = (await require(ports.versions, "ModelVersion", candidate)).value
            await self._judging.look(version)
            run, baseline, data = evidence.evaluation_run, evidence.baseline, evidence.dataset_version
            await ports.lineage.add(edges_of_evaluation(run, candidate, baseline, data, judges))
            model = (await require(ports.models, "Model", version.model, lock=True)).value
            record = EvidenceRecord(evidence.evaluation_run, candidate, suite, evidence, cycle, ports.clock.now())
            if await ports.evidence.get(record.name) is None:
                await ports.evidence.add(record)
            policy = await self._judging.policy_of(model.name)
            serves = await self._judging.serves(model, version, policy)
            if policy is None or suite not in policy.suites or serves:
                return None
            judgement = await self._judging.judge(policy, model, version, GATE)
            if not judgement.measured:
                return None
            model, decision = await self._releases.decide(model, version, judgement, cycle, GATE)
            if decision.outcome is Outcome.REFUSED:
                await ports.announcements.release_refused(
                    version.name, model.name, decision.name, decision.reasons, cycle
                )
            elif judgement.approved:
                await self._releases.make(model, version, decision, judgement, GATE)
            return decision

    async def refuse_unmeasured(self, candidate: str, reason: str, cycle: str) -> None:
        """Says that a version is not released because it could not be measured."""
        named = ModelVersionName.parse(candidate)
        model = str(ModelName(named.project, named.model))
        async with self._ports.transactions.transaction():
            await self._ports.announcements.release_refused(candidate, model, "", (reason,), cycle)

    async def check(self, version_name: str, actor: Actor) -> Judgement | None:
        """What the gate would say of a version now; None without a policy.

        Raises:
            NotFound: There is no such version.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            version = (await require(ports.versions, "ModelVersion", version_name)).value
            await self._judging.look(version)
            model = (await require(ports.models, "Model", version.model)).value
            policy = await self._judging.policy_of(model.name)
            return await self._judging.judge(policy, model, version, actor) if policy is not None else None

    async def units(self, model_name: str) -> UnitsOfModel:
        """What goes with a model's versions into answers.

        Raises:
            NotFound: There is no such model.
            InvalidInput: UNIT_NOT_SERVABLE, the policy names what no door can apply.
        """
        async with self._ports.transactions.transaction():
            model = (await require(self._ports.models, "Model", model_name)).value
            policy = await self._judging.policy_of(model_name)
            active = await self._judging.serving(model)
            return UnitsOfModel(
                await self._units.served(policy.unit) if policy is not None else NO_UNIT,
                await self._units.of_release(active) if active is not None else NO_UNIT,
                active.model_version if active is not None else "",
            )

    async def approve(
        self, approval_id: str, version_name: str, manifest_sha256: str, comment: str, actor: Actor
    ) -> tuple[Approval, Release | None]:
        """Takes a person's approval, and releases the version when nothing else is missing.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: APPROVER_IS_AUTHOR, APPROVER_IS_SERVICE or MANIFEST_DIFFERS.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            version = (await require(ports.versions, "ModelVersion", version_name)).value
            await self._judging.look(version)
            model = (await require(ports.models, "Model", version.model, lock=True)).value
            check_approver(version, manifest_sha256, actor)
            for known in await ports.approvals.find("model_version", version.name):
                if known.approver == actor.subject:
                    return known, None
            named = ModelName.parse(model.name)
            approval = Approval(
                name=str(ApprovalName(named.project, named.model, approval_id)),
                model=model.name,
                model_version=version.name,
                manifest_sha256=manifest_sha256,
                approver=actor.subject,
                roles=tuple(sorted(actor.roles)),
                comment=comment,
                create_time=ports.clock.now(),
            )
            await ports.approvals.add(approval)
            await ports.lineage.add(edges_of_approval(approval))
            model = await self._ledger.write(
                model, HistoryKind.APPROVED, approval.name, actor, version=version.name, manifest=manifest_sha256
            )
            await ports.models.put(model)
            policy = await self._judging.policy_of(model.name)
            serves = await self._judging.serves(model, version, policy)
            if policy is None or not policy.approvals or serves:
                return approval, None
            judgement = await self._judging.judge(policy, model, version, GATE)
            if not judgement.allowed:
                return approval, None
            model, decision = await self._releases.decide(model, version, judgement, version.cycle, GATE)
            return approval, await self._releases.make(model, version, decision, judgement, GATE)
