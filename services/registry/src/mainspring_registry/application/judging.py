"""What the gate would say of a version now: evidence, and whose word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.approvals import Actor, Approval, judge_approvals
from mainspring_registry.domain.catalogue import Model, ModelVersion
from mainspring_registry.domain.gate import EvidenceRecord, Outcome, RuleResult, judge, outcome_of
from mainspring_registry.domain.policies import ReleasePolicy
from mainspring_svckit.repository import require


@dataclass(frozen=True)
class Judgement:
    """What the gate says.

    Attributes:
        policy: What was applied.
        records: The evidence by suite.
        rules: What is asked of the evidence.
        approval_rules: What is asked of people.
        approvals: Whose word counted.
    """

    policy: ReleasePolicy
    records: Mapping[str, EvidenceRecord]
    rules: tuple[RuleResult, ...]
    approval_rules: tuple[RuleResult, ...]
    approvals: tuple[Approval, ...]

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
        self._ports = ports

    async def policy_of(self, model: str) -> ReleasePolicy | None:
        """The policy that guards a model."""
        return next(iter(await self._ports.policies.find("model", model)), None)

    async def serving_version(self, model: Model) -> str:
        """The version whose release is active, or empty."""
        if not model.active_release:
            return ""
        return (await require(self._ports.releases, "Release", model.active_release)).value.model_version

    async def judge(self, policy: ReleasePolicy, model: Model, version: ModelVersion, releaser: Actor) -> Judgement:
        """What the gate says of a version, on the newest evidence of each suite."""
        baseline = await self.serving_version(model) or version.base_model_version
        records = await self._records(policy, version, baseline)
        rules = judge(
            policy,
            records,
            manifest_sha256=version.manifest.sha256,
            wanted_baseline=baseline,
            now=self._ports.clock.now(),
        )
        given = await self._ports.approvals.find("model_version", version.name) if policy.approvals else ()
        approval_rules, approvals = judge_approvals(policy.approvals, given, version, releaser)
        return Judgement(policy, records, rules, approval_rules, approvals)

    async def _records(
        self, policy: ReleasePolicy, version: ModelVersion, baseline: str
    ) -> Mapping[str, EvidenceRecord]:
        """The newest by suite, such that compare with what serves now before others."""
        found: dict[str, EvidenceRecord] = {}
        known = await self._ports.evidence.find("model_version", version.name)
        for record in sorted(known, key=lambda r: (r.evidence.baseline == baseline, r.create_time, r.name)):
            found[record.suite or policy.evaluation_suite] = record
        return {suite: found[suite] for suite in policy.suites if suite in found}
