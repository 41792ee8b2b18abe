"""The gate: several suites, slices, significance, age, approvals; and that nothing goes round it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mainspring.events.v1 import registry_events_pb2 as events
from mainspring_registry.domain.approvals import Actor
from mainspring_registry.domain.catalogue import ModelVersion
from mainspring_registry.domain.gate import Evidence, EvidenceRecord, Outcome, WantedUnits, judge
from mainspring_registry.domain.policies import (
    ApprovalRule,
    ApproverRole,
    Comparison,
    GuardRule,
    ReleasePolicy,
    SliceRule,
    SuiteRule,
)
from mainspring_registry.transport.policies_mapping import policy_from_proto, policy_to_proto
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.repository import Stored
from mainspring_svckit.values import Estimate, ServedUnit, SliceResult

from .world import ADA, ANNA, BASE, BEN, CARL, MODEL, POLICY, SUITE, World, evidence

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAFETY = "projects/p/evaluationSuites/safety"
TWO = replace(POLICY, approvals=(ApprovalRule(ApproverRole.RELEASER, 1), ApprovalRule(ApproverRole.ADMIN, 1)))
ONE = replace(POLICY, approvals=(ApprovalRule(ApproverRole.RELEASER, 1),))
FORGETTING = SuiteRule(SAFETY, (GuardRule("rouge_l", 0.05),), comparison=Comparison.PARENT)


def measured(low: float = 0.1, **of_result: Any) -> Evidence:
    version: Any = type("V", (), {"manifest": type("M", (), {"sha256": "aa"})})
    found = evidence(version, low, BASE)
    return replace(found, results=(replace(found.results[0], **of_result),))


def broken(policy: Any, *given: tuple[str, Evidence], age_s: float = 0, **wanted: Any) -> set[str]:
    heard, wanted = NOW - timedelta(seconds=age_s), {"wanted_baseline": BASE, **wanted}
    records = {
        suite: EvidenceRecord(one.evaluation_run, f"{MODEL}/versions/1", suite, one, "", heard) for suite, one in given
    }
    rules = judge(policy, records, manifest_sha256="aa", now=NOW, **wanted)
    assert all(rule.explanation for rule in rules)
    return {rule.rule for rule in rules if not rule.passed}


def on_slice(low: float, items: int = 50, **changes: Any) -> SliceResult:
    estimate = Estimate(0.5, 0.4, 0.6, 0.95)
    found = SliceResult("lang=de", items, False, estimate, estimate, Estimate(low + 0.1, low, low + 0.2, 0.95))
    return replace(found, **changes)


def test_every_suite_must_have_its_word_and_keep_its_own_rules() -> None:
    policy = replace(POLICY, further_suites=(SuiteRule(SAFETY, (GuardRule("rouge_l", 0.05),)),))
    assert broken(policy, (SUITE, measured())) == {"safety/evidence"}
    assert broken(policy, (SUITE, measured()), (SAFETY, measured(-0.01))) == set()
    assert broken(policy, (SUITE, measured()), (SAFETY, measured(-0.06))) == {"safety/guard:rouge_l"}
    other = replace(measured(), baseline=f"{MODEL}/versions/7", candidate_manifest_sha256="bb", items=3)
    assert broken(policy, (SUITE, measured()), (SAFETY, other)) == {
        "safety/evidence", "safety/baseline", "safety/items",
    }  # fmt: skip


def test_what_tuning_may_cost_is_guarded_against_the_parent_while_another_version_serves() -> None:
    policy, champion = replace(POLICY, further_suites=(FORGETTING,)), f"{MODEL}/versions/7"
    better = replace(measured(), baseline=champion)
    wanted: dict[str, Any] = {"wanted_baseline": champion, "wanted_parent": BASE}
    assert broken(policy, (SUITE, better), (SAFETY, measured(-0.01)), **wanted) == set()
    assert broken(policy, (SUITE, better), (SAFETY, measured(-0.06)), **wanted) == {"safety/guard:rouge_l"}
    assert broken(policy, (SUITE, better), (SAFETY, better), **wanted) == {"safety/baseline"}
    assert broken(policy, (SUITE, measured()), (SAFETY, measured()), **wanted) == {"baseline"}
    against_what_serves = replace(policy, further_suites=(replace(FORGETTING, comparison=Comparison.CHAMPION),))
    assert broken(against_what_serves, (SUITE, better), (SAFETY, measured()), **wanted) == {"safety/baseline"}


def test_a_parent_that_does_not_serve_need_not_be_asked_with_what_serves() -> None:
    policy, champion = replace(POLICY, further_suites=(FORGETTING,)), f"{MODEL}/versions/7"
    goes_live, serves = ServedUnit(temperature=0.5), ServedUnit(temperature=0.2)
    asked = replace(measured(), candidate_unit_sha256=goes_live.sha256, baseline_unit_sha256=goes_live.sha256)
    better = replace(asked, baseline=champion, baseline_unit_sha256=serves.sha256)
    wanted: dict[str, Any] = {"wanted_baseline": champion, "units": WantedUnits(goes_live, "", serves)}
    assert broken(policy, (SUITE, better), (SAFETY, asked), wanted_parent=BASE, **wanted) == set()
    same = replace(asked, baseline=champion)
    assert broken(policy, (SUITE, better), (SAFETY, same), wanted_parent=champion, **wanted) == {"safety/unit"}


async def test_a_version_tuned_from_the_base_or_from_an_older_one_is_guarded_against_that(world: World) -> None:
    await world.put_policy(replace(POLICY, further_suites=(FORGETTING,)))
    first = await world.version("r1")
    await world.measure(first, 0.1)
    await world.measure(first, 0.0, suite=SAFETY)
    second = await world.version("r2")
    await world.measure(second, 0.1, baseline=first.name)
    decision = await world.measure(second, 0.0, suite=SAFETY)
    assert decision.outcome is Outcome.ALLOWED
    trained = await world.trained("r3")
    lineage = replace(trained.lineage, parent_model_version=first.name)
    third = await world.catalogue.register_adapter(replace(trained, lineage=lineage))
    await world.measure(third, 0.1, baseline=second.name)
    refused = await world.measure(third, 0.0, suite=SAFETY)
    assert refused.reasons == (
        f"safety/baseline: compared with {BASE}, but it was made from {first.name};"
        " give the suite COMPARISON_PARENT, evaluate again",
    )
    allowed = await world.measure(third, 0.0, suite=SAFETY, baseline=first.name)
    assert allowed.outcome is Outcome.ALLOWED
    assert [event.model_version for event in world.said(events.ModelReleased)] == [
        first.name, second.name, third.name,
    ]  # fmt: skip


async def test_a_suite_against_the_parent_whose_rule_does_not_say_so_is_refused_with_what_to_do(world: World) -> None:
    await world.put_policy(replace(POLICY, further_suites=(SuiteRule(SAFETY),)))
    first, second = await world.version("r1"), await world.version("r2")
    await world.measure(first, 0.1)
    await world.measure(first, 0.0, suite=SAFETY)
    await world.measure(second, 0.1, baseline=first.name)
    refused = await world.measure(second, 0.0, suite=SAFETY)
    (reason,) = refused.reasons
    assert reason.startswith(f"safety/baseline: compared with {BASE}, but {first.name} serves now")
    assert "have an admin give the policy's rule COMPARISON_PARENT" in reason


def test_a_suite_that_says_something_else_than_the_policy_pins_allows_nothing() -> None:
    pins = SuiteRule(SAFETY, suite_sha256="b" * 64)
    policy = replace(POLICY, suite_sha256="a" * 64, further_suites=(pins,))
    by_a, by_b = (replace(measured(), suite_sha256=digest * 64) for digest in "ab")
    assert broken(policy, (SUITE, by_a), (SAFETY, by_b)) == set()
    assert broken(policy, (SUITE, by_b), (SAFETY, by_a)) == {"suite", "safety/suite"}
    assert broken(policy, (SUITE, measured()), (SAFETY, by_b)) == {"suite"}, "nobody knows what it said"
    assert broken(POLICY, (SUITE, by_b)) == set()


async def test_a_suite_that_was_changed_neither_releases_nor_hides_what_was_measured_before(world: World) -> None:
    await world.put_policy(replace(ONE, suite_sha256="a" * 64))
    version = await world.version()
    changed = replace(evidence(version, 0.1, BASE), suite_sha256="b" * 64)
    refused = await world.gate.apply(version.name, SUITE, changed, "cycle")
    assert refused is not None
    (reason,) = refused.reasons
    assert reason == (
        f"suite: {SUITE} said something else (bbbbbbbbbbbb) than the policy pins (aaaaaaaaaaaa); put the suite back"
        " and evaluate again, or have an admin pin what it says now"
    )
    pinned = replace(evidence(version, 0.1, BASE), suite_sha256="a" * 64)
    for found in (pinned, replace(evidence(version, 0.1, BASE), suite_sha256="b" * 64)):
        await world.gate.apply(version.name, SUITE, found, "cycle")
    _, release = await world.gate.approve("a", version.name, version.manifest.sha256, "", BEN)
    assert release is not None
    assert set(world.notary.releases[0].evidence) == {pinned.evaluation_run}


@pytest.mark.parametrize(
    ("level", "passes"), [(0.95, True), (0.99, True), (0.949, False), (0.5, False), (float("nan"), False)]
)
def test_intervals_at_a_lower_confidence_level_are_no_evidence(level: float, passes: bool) -> None:
    narrow = Estimate(0.2, 0.1, 0.3, level)
    wanted = set[str]() if passes else {"confidence"}
    assert broken(POLICY, (SUITE, measured(difference=narrow))) == wanted
    assert broken(POLICY, (SUITE, measured(slices=(on_slice(0.01, difference=narrow),)))) == wanted
    further = replace(POLICY, further_suites=(SuiteRule(SAFETY),))
    found = broken(further, (SUITE, measured()), (SAFETY, measured(difference=narrow)))
    assert found == {f"safety/{rule}" for rule in wanted}
    admitted = replace(POLICY, min_confidence_level=0.5)
    assert broken(admitted, (SUITE, measured(difference=narrow))) == (set() if level >= 0.5 else wanted)


def test_a_policy_is_printed_as_it_was_read() -> None:
    rules = (replace(FORGETTING, suite_sha256="b" * 64), SuiteRule(SUITE + "2"))
    policy = replace(TWO, suite_sha256="a" * 64, min_confidence_level=0.9, further_suites=rules)
    assert policy_from_proto(policy_to_proto(Stored(policy, "1", NOW))) == policy
    bare = policy_to_proto(Stored(POLICY, "1", NOW))
    bare.ClearField("min_confidence_level")
    assert policy_from_proto(bare) == ReleasePolicy(POLICY.name, MODEL, SUITE, "rouge_l", min_confidence_level=0.95)


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        ((on_slice(0.01),), True),
        ((on_slice(-0.01),), False),
        ((on_slice(0.01, too_few_items=True),), False),
        ((on_slice(0.01, slice="lang=fr"),), False),
        ((), False),
    ],
)
def test_a_slice_may_not_fall_and_too_few_items_say_nothing(found: tuple[SliceResult, ...], passes: bool) -> None:
    policy = replace(POLICY, slices=(SliceRule("rouge_l", "lang=de"),))
    assert broken(policy, (SUITE, measured(slices=found))) == (set() if passes else {"slice:rouge_l@lang=de"})


def test_on_a_scorer_of_which_less_is_better_a_slice_may_not_rise() -> None:
    policy = replace(POLICY, slices=(SliceRule("rouge_l", "lang=de"),))
    rising = measured(-0.5, lower_is_better=True, slices=(on_slice(0.01),))
    assert broken(policy, (SUITE, rising)) == {"slice:rouge_l@lang=de"}


@pytest.mark.parametrize(
    ("p", "test", "passes"),
    [(0.04, "mcnemar", True), (0.06, "mcnemar", False), (float("nan"), "mcnemar", False), (0, "", False)],
)
def test_significance_is_asked_only_where_the_policy_asks(p: float, test: str, passes: bool) -> None:
    tested = measured(adjusted_p_value=p, test=test)
    assert broken(POLICY, (SUITE, tested)) == set()
    strict = replace(POLICY, max_adjusted_p=0.05)
    assert broken(strict, (SUITE, tested)) == (set() if passes else {"significance:rouge_l"})


def test_evidence_grows_old() -> None:
    policy = replace(POLICY, max_evidence_age_s=3600)
    assert broken(policy, (SUITE, measured()), age_s=3600) == set()
    assert broken(policy, (SUITE, measured()), age_s=3601) == {"age"}


async def test_the_gate_waits_for_the_last_suite(world: World) -> None:
    await world.put_policy(replace(POLICY, further_suites=(SuiteRule(SAFETY),)))
    version = await world.version()
    assert await world.measure(version, 0.1) is None
    assert world.said(events.ModelReleased) == []
    decision = await world.measure(version, 0.0, suite=SAFETY)
    assert decision is not None
    assert len(decision.evaluation_runs) == 2
    (released,) = world.said(events.ModelReleased)
    assert released.model_version == version.name
    assert set(world.notary.releases[0].evidence) == set(decision.evaluation_runs)


async def waits_for_approval(world: World, policy: Any, author: str = "") -> ModelVersion:
    await world.put_policy(policy)
    await world.base()
    version = await world.catalogue.register_adapter(replace(await world.trained("r"), author=author))
    decision = await world.measure(version, 0.1)
    assert decision is not None
    assert decision.outcome.value == "ALLOWED"
    assert world.said(events.ModelReleased) == []
    return version


async def test_the_last_approval_that_was_missing_releases(world: World) -> None:
    version = await waits_for_approval(world, TWO)
    sha256 = version.manifest.sha256
    approval, release = await world.gate.approve("a1", version.name, sha256, "looks good", ANNA)
    assert (approval.approver, release) == ("anna", None)
    again, release = await world.gate.approve("a2", version.name, sha256, "again", ANNA)
    assert (again, release) == (approval, None)
    _, release = await world.gate.approve("a3", version.name, sha256, "", BEN)
    assert release is None, "another releaser is no admin"
    _, release = await world.gate.approve("a4", version.name, sha256, "", ADA)
    assert release is not None
    assert (release.released_by, len(release.approvals)) == ("gate", 2)
    signed = world.notary.releases[0].details["approvals"]
    assert [one["approver"] for one in signed] == ["ada", "anna"]
    assert len(world.said(events.ModelReleased)) == 1


async def test_a10_nobody_approves_what_he_made(world: World) -> None:
    version = await waits_for_approval(world, ONE, author="anna")
    with pytest.raises(PreconditionFailed) as caught:
        await world.gate.approve("a", version.name, version.manifest.sha256, "", ANNA)
    assert caught.value.reason == "APPROVER_IS_AUTHOR"
    _, release = await world.gate.approve("b", version.name, version.manifest.sha256, "", BEN)
    assert release is not None


async def test_a10_who_releases_is_not_his_own_approver(world: World) -> None:
    version = await waits_for_approval(world, TWO)
    await world.gate.approve("a", version.name, version.manifest.sha256, "", ANNA)
    await world.put_policy(ONE)
    with pytest.raises(PreconditionFailed, match="nobody approved"):
        await world.releases.create(MODEL, version.name, ANNA)
    assert (await world.releases.create(MODEL, version.name, BEN)).released_by == "ben"


async def test_a10_services_do_not_approve_and_approvals_are_for_exact_files(world: World) -> None:
    version = await waits_for_approval(world, ONE)
    with pytest.raises(PreconditionFailed) as caught:
        await world.gate.approve("a", version.name, version.manifest.sha256, "", Actor("s", frozenset({"service"})))
    assert caught.value.reason == "APPROVER_IS_SERVICE"
    with pytest.raises(PreconditionFailed) as caught:
        await world.gate.approve("a", version.name, "0" * 64, "", ANNA)
    assert caught.value.reason == "MANIFEST_DIFFERS"


async def test_i7_no_release_without_evidence_for_exactly_these_files_also_by_hand(world: World) -> None:
    await world.put_policy(POLICY)
    first, second = await world.version("r1"), await world.version("r2")
    await world.gate.apply(first.name, SUITE, evidence(second, 0.5, BASE), "")
    for version in (first, second):
        with pytest.raises(PreconditionFailed) as caught:
            await world.releases.create(MODEL, version.name, ADA)
        assert caught.value.reason == "RELEASE_NOT_ALLOWED"
    assert world.said(events.ModelReleased) == []


async def test_f10_an_approval_is_kept_although_the_files_are_lost(world: World) -> None:
    version = await waits_for_approval(world, ONE)
    adapter = version.artifacts["adapter.gguf"]
    data = await world.files.read("p", adapter)
    await world.files.discard("p", adapter)
    _, release = await world.gate.approve("a", version.name, version.manifest.sha256, "", BEN)
    assert release is None
    found = await world.gate.check(version.name, CARL)
    assert found is not None
    assert [reason.split(":")[0] for reason in found.reasons] == ["files"]
    await world.files.put_bytes("p", data)
    assert (await world.releases.create(MODEL, version.name, CARL)).approvals == (f"{MODEL}/approvals/a",)


async def test_a_policy_that_grew_stricter_holds_for_old_evidence_too(world: World) -> None:
    version = await waits_for_approval(world, ONE)
    await world.put_policy(replace(ONE, min_gain=0.2))
    _, release = await world.gate.approve("a", version.name, version.manifest.sha256, "", BEN)
    assert release is None
    with pytest.raises(PreconditionFailed, match="primary:rouge_l"):
        await world.releases.create(MODEL, version.name, CARL)


async def test_f14_approvals_do_not_revive_evidence_that_has_grown_old(world: World) -> None:
    version = await waits_for_approval(world, replace(ONE, max_evidence_age_s=60))
    world.clock.advance(61)
    _, release = await world.gate.approve("a", version.name, version.manifest.sha256, "", BEN)
    assert release is None
    found = await world.gate.check(version.name, CARL)
    assert found is not None
    assert [reason.split(":")[0] for reason in found.reasons] == ["age"]


async def test_what_the_gate_would_say_changes_nothing(world: World) -> None:
    version = await world.version()
    assert await world.gate.check(version.name, ANNA) is None
    await world.put_policy(ONE)
    found = await world.gate.check(version.name, ANNA)
    assert found is not None
    assert [reason.split(":")[0] for reason in found.reasons] == ["evidence", "approvals"]
    assert (await world.ports.decisions.all()) == []


async def test_a_policy_that_contradicts_itself_is_refused(world: World) -> None:
    twice = replace(POLICY, further_suites=(SuiteRule(SUITE),))
    with pytest.raises(InvalidInput):
        await world.put_policy(twice)
    with pytest.raises(InvalidInput):
        await world.put_policy(replace(POLICY, approvals=(ONE.approvals[0], ONE.approvals[0])))


async def test_a_version_that_serves_and_is_measured_again_is_neither_released_twice_nor_refused(world: World) -> None:
    await world.put_policy(POLICY)
    version = await world.version()
    await world.measure(version, 0.1)
    for low in (0.1, -0.1):
        assert await world.measure(version, low, baseline=version.name) is None
    assert len(world.said(events.ModelReleased)) == 1
    assert world.said(events.ReleaseRefused) == []
