"""What the gate would say of a version now: evidence, and whose word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mainspring_registry.application.files import Files
from mainspring_registry.application.ports import Ports
from mainspring_registry.application.units import Units
from mainspring_registry.domain.approvals import Actor, Approval, judge_approvals
from mainspring_registry.domain.catalogue import Model, ModelVersion
from mainspring_registry.domain.gate import (
    Evidence,
    EvidenceRecord,
    Outcome,
    RuleResult,
    WantedBaselines,
    WantedUnits,
    judge,
    outcome_of,
    whole_files,
)
from mainspring_registry.domain.policies import ReleasePolicy, SuiteRule
from mainspring_registry.domain.releases import Release
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.repository import require
from mainspring_svckit.values import NO_UNIT, ServedUnit


@dataclass(frozen=True)
class Judgement:
    """What the gate says.

    Attributes:
        policy: What was applied.
        records: The evidence by suite.
        rules: What is asked of the evidence, and of the artifact store.
        approval_rules: What is asked of people.
        approvals: Whose word counted.
        unit: What would go live with the version.
        lost: Files that the artifact store does not hold whole.
    """

    policy: ReleasePolicy
    records: Mapping[str, EvidenceRecord]
    rules: tuple[RuleResult, ...]
    approval_rules: tuple[RuleResult, ...]
    approvals: tuple[Approval, ...]
    unit: ServedUnit
    lost: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether every suite has had its word."""
        return all(suite in self.records for suite in self.policy.suites)

    @property
    def approved(self) -> bool:
        """Whether enough people approved."""
        return all(rule.passed for rule in self.approval_rules)

    @property
    def allowed(self) -> bool:
        """Whether the version may be released."""
        return self.approved and outcome_of(self.rules) is Outcome.ALLOWED

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is missing or broken, in words."""
        every = (*self.rules, *self.approval_rules)
        return tuple(f"{rule.rule}: {rule.explanation}" for rule in every if not rule.passed)


class Judging:
    """Looks evidence and approvals up and applies the policy. Joins the ambient transaction."""

    def __init__(self, ports: Ports) -> None:
        self._ports, self._units, self._files = ports, Units(ports), Files(ports)

    async def look(self, version: ModelVersion) -> None:
        """Has large files compared with their digests, where a policy will ask for them; no lock may be held."""
        if await self.policy_of(version.model) is not None:
            await self._files.look(version)

    async def policy_of(self, model: str) -> ReleasePolicy | None:
        """The policy that guards a model."""
        return next(iter(await self._ports.policies.find("model", model)), None)

    async def serving(self, model: Model) -> Release | None:
        """The active release."""
        if not model.active_release:
            return None
        return (await require(self._ports.releases, "Release", model.active_release)).value

    async def serves(self, model: Model, version: ModelVersion, policy: ReleasePolicy | None) -> bool:
        """Whether a version serves already, with what the policy has go with it."""
        active = await self.serving(model)
        if active is None or active.model_version != version.name:
            return False
        unit, _ = await self._unit(policy) if policy is not None else (await self._units.of_release(active), "")
        return unit is None or unit == await self._units.of_release(active)

    async def _unit(self, policy: ReleasePolicy) -> tuple[ServedUnit | None, str]:
        """What a release would have doors apply, or why it cannot."""
        try:
            return await self._units.served(policy.unit), ""
        except InvalidInput as err:
            return None, err.message

    async def judge(self, policy: ReleasePolicy, model: Model, version: ModelVersion, releaser: Actor) -> Judgement:
        """What the gate says of a version, on the newest evidence of each suite."""
        active = await self.serving(model)
        champion = active.model_version if active is not None else version.base_model_version
        wanted = WantedBaselines(champion, version.parent)
        unit, problem = await self._unit(policy)
        before = await self._units.of_release(active) if active is not None else None
        records = await self._records(policy, version, wanted, unit or NO_UNIT)
        rules = judge(
            policy,
            records,
            manifest_sha256=version.manifest.sha256,
            wanted_baseline=wanted.champion,
            now=self._ports.clock.now(),
            units=WantedUnits(unit, problem, before),
            wanted_parent=wanted.parent,
        )
        lost = tuple(await self._files.lost(version))
        given = await self._ports.approvals.find("model_version", version.name) if policy.approvals else ()
        approval_rules, approvals = judge_approvals(policy.approvals, given, version, releaser)
        rules = (*rules, whole_files(lost))
        return Judgement(policy, records, rules, approval_rules, approvals, unit or NO_UNIT, lost)

    async def _records(
        self, policy: ReleasePolicy, version: ModelVersion, wanted: WantedBaselines, unit: ServedUnit
    ) -> Mapping[str, EvidenceRecord]:
        """The newest by suite, such that are about what would serve, what it must be compared with, and what the suite
        must say, before others.
        """

        def fits(rule: SuiteRule, evidence: Evidence) -> bool:
            measured = (evidence.baseline, evidence.candidate_unit_sha256)
            pinned = rule.suite_sha256 in {"", evidence.suite_sha256}
            return pinned and measured == (wanted.of(rule), unit.sha256)

        found: dict[str, EvidenceRecord] = {}
        known = await self._ports.evidence.find("model_version", version.name)
        for rule in policy.suite_rules:
            suite = rule.evaluation_suite
            of_suite = [record for record in known if (record.suite or policy.evaluation_suite) == suite]
            if of_suite:
                found[suite] = max(of_suite, key=lambda r: (fits(rule, r.evidence), r.create_time, r.name))
        return found
