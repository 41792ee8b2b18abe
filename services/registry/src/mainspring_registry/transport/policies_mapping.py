"""Between release policies and `mainspring.registry.v1`; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mainspring.common.v1 import access_pb2
from mainspring.evaluation.v1 import suite_pb2
from mainspring.registry.v1 import release_pb2
from mainspring_registry.domain.policies import (
    DEFAULT_MAX_MEAN_KL_NATS,
    DEFAULT_MIN_CONFIDENCE_LEVEL,
    DEFAULT_MIN_ITEMS,
    ApprovalRule,
    ApproverRole,
    Comparison,
    GuardRule,
    ReleasePolicy,
    ServingUnit,
    SliceRule,
    SuiteRule,
)
from mainspring_svckit.mapping import duration_to_proto, time_to_proto
from mainspring_svckit.repository import Stored


def policy_from_proto(message: release_pb2.ReleasePolicy) -> ReleasePolicy:
    """Reads a policy, with defaults for what is not set."""
    return ReleasePolicy(
        name=message.name,
        model=message.model,
        evaluation_suite=message.evaluation_suite,
        primary_scorer=message.primary_scorer,
        min_gain=message.min_gain,
        guards=_guards_from_proto(message.guards),
        max_mean_kl_nats=message.max_mean_kl_nats or DEFAULT_MAX_MEAN_KL_NATS,
        min_items=message.min_items or DEFAULT_MIN_ITEMS,
        slices=_slices_from_proto(message.slices),
        further_suites=tuple(_suite_from_proto(suite) for suite in message.further_suites),
        max_evidence_age_s=message.max_evidence_age.ToTimedelta().total_seconds(),
        max_adjusted_p=message.max_adjusted_p_value,
        approvals=tuple(
            ApprovalRule(ApproverRole(access_pb2.Role.Name(rule.role).removeprefix("ROLE_")), rule.count)
            for rule in message.approvals
        ),
        unit=_unit_from_proto(message.unit),
        suite_sha256=message.suite_sha256,
        min_confidence_level=message.min_confidence_level or DEFAULT_MIN_CONFIDENCE_LEVEL,
    )


def policy_to_proto(stored: Stored[ReleasePolicy]) -> release_pb2.ReleasePolicy:
    """Prints a policy."""
    policy = stored.value
    return release_pb2.ReleasePolicy(
        name=policy.name,
        model=policy.model,
        evaluation_suite=policy.evaluation_suite,
        primary_scorer=policy.primary_scorer,
        min_gain=policy.min_gain,
        guards=_guards_to_proto(policy.guards),
        max_mean_kl_nats=policy.max_mean_kl_nats,
        min_items=policy.min_items,
        update_time=time_to_proto(stored.update_time),
        etag=stored.etag,
        slices=_slices_to_proto(policy.slices),
        further_suites=[_suite_to_proto(suite) for suite in policy.further_suites],
        max_evidence_age=duration_to_proto(policy.max_evidence_age_s) if policy.max_evidence_age_s else None,
        max_adjusted_p_value=policy.max_adjusted_p,
        approvals=[
            release_pb2.ApprovalRule(role=access_pb2.Role.Value(f"ROLE_{rule.role.value}"), count=rule.count)
            for rule in policy.approvals
        ],
        unit=serving_unit_to_proto(policy.unit),
        suite_sha256=policy.suite_sha256,
        min_confidence_level=policy.min_confidence_level,
    )


def serving_unit_to_proto(unit: ServingUnit) -> release_pb2.ServingUnit | None:
    """Prints what a release names beside the version; None when that is nothing."""
    if unit == ServingUnit():
        return None
    return release_pb2.ServingUnit(
        prompt_version=unit.prompt_version,
        collection=unit.collection,
        guard_policy=unit.guard_policy,
        temperature=unit.temperature,
        max_output_tokens=unit.max_output_tokens,
        prompt_variables=unit.prompt_variables,
    )


def _unit_from_proto(message: release_pb2.ServingUnit) -> ServingUnit:
    return ServingUnit(
        message.prompt_version,
        message.collection,
        message.guard_policy,
        message.temperature if message.HasField("temperature") else None,
        message.max_output_tokens,
        dict(message.prompt_variables),
    )


def _suite_from_proto(message: release_pb2.SuiteRule) -> SuiteRule:
    return SuiteRule(
        message.evaluation_suite,
        _guards_from_proto(message.guards),
        _slices_from_proto(message.slices),
        message.suite_sha256,
        Comparison.PARENT if message.comparison == suite_pb2.COMPARISON_PARENT else Comparison.CHAMPION,
    )


def _suite_to_proto(suite: SuiteRule) -> release_pb2.SuiteRule:
    return release_pb2.SuiteRule(
        evaluation_suite=suite.evaluation_suite,
        guards=_guards_to_proto(suite.guards),
        slices=_slices_to_proto(suite.slices),
        suite_sha256=suite.suite_sha256,
        comparison=suite_pb2.Comparison.Value(f"COMPARISON_{suite.comparison.value}"),
    )


def _guards_from_proto(guards: Iterable[release_pb2.GuardRule]) -> tuple[GuardRule, ...]:
    return tuple(GuardRule(guard.scorer, guard.margin) for guard in guards)


def _slices_from_proto(slices: Iterable[release_pb2.SliceRule]) -> tuple[SliceRule, ...]:
    return tuple(SliceRule(rule.scorer, rule.slice, rule.margin) for rule in slices)


def _guards_to_proto(guards: Sequence[GuardRule]) -> list[release_pb2.GuardRule]:
    return [release_pb2.GuardRule(scorer=guard.scorer, margin=guard.margin) for guard in guards]


def _slices_to_proto(slices: Sequence[SliceRule]) -> list[release_pb2.SliceRule]:
    return [release_pb2.SliceRule(scorer=rule.scorer, slice=rule.slice, margin=rule.margin) for rule in slices]
