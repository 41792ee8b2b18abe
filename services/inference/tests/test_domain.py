from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.common.v1 import unit_pb2
from mainspring.inference.v1 import inference_service_pb2 as pb
from mainspring_inference.domain.deployments import (
    DEPLOYMENT_STATES,
    DeploymentState,
    Serving,
    deployment_name,
    new_deployment,
    triton_name,
)
from mainspring_inference.domain.rollouts import (
    ROLLOUT_STATES,
    Rollout,
    RolloutPolicy,
    RolloutState,
    Served,
    Traffic,
    Verdict,
    rollout_name,
)
from mainspring_inference.domain.routing import routing_table
from mainspring_inference.transport.mapping import question_from_proto, scored_from_proto
from mainspring_svckit.auth import Principal
from mainspring_svckit.errors import IllegalTransition, InvalidInput, PermissionDenied
from mainspring_svckit.names import DeploymentName, RolloutName
from mainspring_svckit.values import NO_UNIT
from mainspring_testkit.contracts.states import assert_as_declared

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "projects/p/models/m"
V1, V2 = f"{MODEL}/versions/1", f"{MODEL}/versions/2"
R1, R2 = Served(f"{MODEL}/releases/1", V1, "c1"), Served(f"{MODEL}/releases/2", V2, "c2")
POLICY = RolloutPolicy("projects/p/rolloutPolicies/x", MODEL, (10, 100), min_answers=20, max_step_wait_s=60)


def rollout(**changes: object) -> Rollout:
    made = Rollout("projects/p/rollouts/m-r2", MODEL, R2.release, V2, POLICY, "c2", NOW).shifted(10, NOW)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_state_machines_are_as_the_contracts_say() -> None:
    assert_as_declared(ROLLOUT_STATES, "inference/v1/rollout.proto", "Rollout")
    assert_as_declared(DEPLOYMENT_STATES, "inference/v1/deployment.proto", "Deployment")


def test_a_deployment_lives_as_long_as_somebody_holds_it() -> None:
    held = new_deployment(V1, "a", NOW).held_by("b").held_by("b")
    assert held.holders == ("a", "b")
    ready = held.loaded(Serving(2048), NOW)
    assert ready.let_go_by("a").state is DeploymentState.READY
    leaving = ready.let_go_by("a").let_go_by("b").let_go_by("b")
    assert leaving.state is DeploymentState.UNLOADING
    assert not leaving.routable
    again = leaving.held_by("c")
    assert (again.state, again.holders) == (DeploymentState.LOADING, ("c",))


def test_doors_keep_the_route_while_a_lost_model_is_loaded_again() -> None:
    ready = new_deployment(V1, "a", NOW).loaded(Serving(), NOW)
    assert ready.lost().routable
    assert not new_deployment(V1, "a", NOW).routable
    failed = ready.lost().failed("R", "m")
    assert not failed.routable
    assert failed.held_by("a").error_reason == ""


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True), st.integers(1, 10**9))
def test_names_of_deployments_are_ids_whatever_the_model(model: str, version: int) -> None:
    name = deployment_name(f"projects/p/models/{model}/versions/{version}")
    assert DeploymentName.matches(name)
    assert RolloutName.matches(rollout_name(f"projects/p/models/{model}/releases/{version}", "-0123456789ab"))


def test_triton_names_of_different_versions_differ() -> None:
    names = {triton_name(f"projects/{p}/models/{m}/versions/1") for p, m in (("a", "b-c"), ("a-b", "c"), ("a", "b"))}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("answers", "errors", "verdict"),
    [
        (0, 0, Verdict.WAIT),
        (4, 4, Verdict.WAIT),  # Too few to say anything.
        (5, 1, Verdict.ROLL_BACK),
        (19, 1, Verdict.WAIT),
        (20, 2, Verdict.GO_ON),
        (20, 3, Verdict.ROLL_BACK),
    ],
)
def test_f17_a_step_goes_on_waits_or_rolls_back(answers: int, errors: int, verdict: Verdict) -> None:
    assert rollout(step_answers=answers, step_errors=errors).verdict(NOW)[0] is verdict


def test_f17_missing_answers_never_decide_for_the_release() -> None:
    verdict, reason = rollout(step_answers=3).verdict(NOW + timedelta(hours=1))
    assert verdict is Verdict.WAIT
    assert reason == "holds at 10 %: 3 of 20 answers came"


def test_a_roll_out_climbs_its_steps_and_ends_once() -> None:
    last = rollout().shifted(100, NOW)
    assert (last.step_answers, last.percent) == (0, 100)
    done = last.promoted(NOW)
    with pytest.raises(IllegalTransition):
        done.rolled_back("late", NOW)
    back = rollout().rolled_back("errors", NOW)
    assert (back.state, back.percent, back.reason) == (RolloutState.ROLLED_BACK, 0, "errors")


@pytest.mark.parametrize("steps", [(), (100, 10), (10, 50), (10, 10, 100)])
def test_steps_must_rise_to_100(steps: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput):
        replace(POLICY, step_percents=steps).check()


@pytest.mark.parametrize(
    ("traffic", "first", "second"),
    [
        (Traffic(MODEL), 0, 0),
        (Traffic(MODEL, stable=R1), 100, 0),
        (Traffic(MODEL, stable=R1, candidate=R2, percent=10), 90, 10),
        (Traffic(MODEL, stable=R1, candidate=R2, percent=100), 0, 100),
        (Traffic(MODEL, candidate=R2, percent=10), 0, 100),  # The first release ever has nobody to share with.
        (Traffic(MODEL, stable=R2), 0, 100),
    ],
)
def test_shares_add_up(traffic: Traffic, first: int, second: int) -> None:
    deployments = [new_deployment(v, "h", NOW).loaded(Serving(512, "t", "b", "e"), NOW) for v in (V1, V2)]
    table = routing_table(replace(traffic, revision=5), deployments)
    assert [route.percent for route in table.routes] == [first, second]
    assert (table.revision, table.routes[0].context_tokens) == (5, 512)
    assert sum(route.percent for route in table.routes) in {0, 100}


def test_what_cannot_answer_is_not_in_the_table() -> None:
    loading = new_deployment(V2, "h", NOW)
    ready = new_deployment(V1, "h", NOW).loaded(Serving(), NOW)
    assert [r.model_version for r in routing_table(Traffic(MODEL, stable=R1), [loading, ready]).routes] == [V1]


@pytest.mark.parametrize(
    ("role", "allowed"), [("viewer", False), ("contributor", False), ("releaser", True), ("service", True)]
)
def test_who_says_what_goes_with_a_version_may_release(role: str, allowed: bool) -> None:
    """A unit of one's own would stand in the place of the release's guard."""
    caller = Principal("ann", frozenset({"p"}), frozenset({role}))
    version = "projects/p/models/m/versions/1"
    plain = pb.GenerateAnswerRequest(parent="projects/p", model=version, raw_prompt="q")
    assert question_from_proto(plain, caller).unit is None
    asked = pb.GenerateAnswerRequest(parent="projects/p", model=version, raw_prompt="q", unit=unit_pb2.ServedUnit())
    scored = pb.ScoreTextRequest(
        parent="projects/p", model=version, raw_prompt="q", text="a", unit=unit_pb2.ServedUnit()
    )
    for read in (lambda: question_from_proto(asked, caller), lambda: scored_from_proto(scored, caller)):
        with nullcontext() if allowed else pytest.raises(PermissionDenied):
            assert read().unit == NO_UNIT
