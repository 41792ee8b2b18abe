"""Use cases over fakes: what is loaded, what gets traffic, what is announced."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mainspring.events.v1 import inference_events_pb2 as events
from mainspring_answers.domain import choose_route
from mainspring_inference.adapters.announcements import OutboxAnnouncements
from mainspring_inference.application.deployments import WORK_KIND as DEPLOY
from mainspring_inference.application.deployments import Deployments
from mainspring_inference.application.ports import Ports
from mainspring_inference.application.rollouts import WORK_KIND as ROLL
from mainspring_inference.application.rollouts import Rollouts
from mainspring_inference.domain.deployments import DeploymentState, deployment_name
from mainspring_inference.domain.rollouts import RolloutPolicy, RolloutState, Served
from mainspring_svckit.errors import IllegalTransition, MainspringError, NotFound, PreconditionFailed
from mainspring_svckit.names import project_name_of
from mainspring_svckit.values import Message, ServedUnit
from mainspring_testkit.fakes import (
    FakeClock,
    FakeLease,
    FakeNotifier,
    FakeOutbox,
    FakeRepository,
    FakeTransactions,
    FakeWork,
)

from .fakes import MODEL, FakeBoard, FakeCatalogue, FakeServer


def version(number: int) -> str:
    return f"{MODEL}/versions/{number}"


def release(number: int) -> str:
    return f"{MODEL}/releases/{number}"


class NoChanges:
    """Nothing changes while a use case waits; each wait ends the run, so that a test can look."""

    @contextmanager
    def watch(self, name: str) -> Iterator["NoChanges"]:
        yield self

    async def wait(self, timeout_s: float) -> bool:
        raise asyncio.CancelledError


class World:
    def __init__(self) -> None:
        self.outbox, self.work, self.server, self.board = FakeOutbox(), FakeWork(), FakeServer(), FakeBoard()
        self.clock, self.catalogue = FakeClock(), FakeCatalogue()

        def repository(key: Any = lambda v: v.name, newest_first: bool = False) -> Any:
            return FakeRepository(parent=lambda v: project_name_of(v.name), sort_key=key, newest_first=newest_first)

        self.ports = Ports(
            transactions=FakeTransactions(),
            deployments=repository(),
            policies=repository(),
            rollouts=repository(lambda r: f"{r.create_time} {r.name}", True),
            traffic=repository(),
            announcements=OutboxAnnouncements(self.outbox),  # type: ignore[arg-type]
            catalogue=self.catalogue,
            server=self.server,
            board=self.board,
            work=self.work,
            notifier=FakeNotifier(),
            changes=NoChanges(),
            clock=self.clock,
        )
        self.deployments = Deployments(self.ports)
        self.rollouts = Rollouts(self.ports, self.deployments)

    async def settle(self) -> None:
        """Does all queued work until nothing more can be done."""
        for _ in range(20):
            if not self.work.queued:
                return
            (kind, key), _payload = self.work.queued.popitem()
            lease = FakeLease()
            try:
                if kind == DEPLOY:
                    await self.deployments.settle(key, lease)
                else:
                    await self.rollouts.run(key, lease)
            except asyncio.CancelledError:
                self.work.queued = {(kind, key): {}, **self.work.queued}
                if kind == ROLL and not any(kind == DEPLOY for kind, _ in self.work.queued):
                    return
            except MainspringError as err:
                give_up = self.deployments.give_up if kind == DEPLOY else self.rollouts.give_up
                await give_up(key, err)

    async def released(self, number: int) -> None:
        await self.rollouts.start(release(number), version(number), f"c{number}")
        await self.settle()

    async def state(self, number: int) -> DeploymentState | None:
        found = await self.ports.deployments.get(deployment_name(version(number)))
        return found.value.state if found is not None else None

    async def rollout(self, number: int) -> Any:
        return next(r for r in await self.ports.rollouts.all() if r.release == release(number))

    def said(self, kind: Any) -> list[Any]:
        return [message for message in self.outbox.emitted if isinstance(message, kind)]


@pytest.fixture
def world() -> World:
    return World()


async def test_a_held_version_is_loaded_and_can_be_reached_by_name(world: World) -> None:
    await world.deployments.acquire(version(1), "evaluation")
    await world.deployments.acquire(version(1), "evaluation")
    await world.settle()
    assert await world.state(1) is DeploymentState.READY
    assert world.board.shares() == {1: 0}
    assert world.server.calls == ["load p.m.1"]


async def test_a_version_that_nobody_holds_leaves_routes_first_and_memory_then(world: World) -> None:
    await world.deployments.acquire(version(1), "a")
    await world.settle()
    await world.deployments.release(deployment_name(version(1)), "a")
    assert world.board.shares() == {1: 0}
    await world.settle()
    assert await world.state(1) is None
    assert world.board.shares() == {}
    assert world.server.models == set()


async def test_a_version_asked_for_again_before_it_left_stays(world: World) -> None:
    await world.deployments.acquire(version(1), "a")
    await world.settle()
    await world.deployments.release(deployment_name(version(1)), "a")
    await world.deployments.acquire(version(1), "b")
    await world.settle()
    assert await world.state(1) is DeploymentState.READY
    assert "unload p.m.1" not in world.server.calls


async def test_f16_a_refused_load_says_why_and_may_be_asked_for_again(world: World) -> None:
    world.server.failure = PreconditionFailed("MODEL_REFUSED", "bad file")
    await world.deployments.acquire(version(1), "a")
    await world.settle()
    found = await world.ports.deployments.get(deployment_name(version(1)))
    assert found is not None
    assert (found.value.state, found.value.error_message) == (DeploymentState.FAILED, "bad file")
    world.server.failure = None
    await world.deployments.acquire(version(1), "a")
    await world.settle()
    assert await world.state(1) is DeploymentState.READY


async def test_f16_a_restarted_triton_gets_its_models_back_and_doors_keep_their_routes(world: World) -> None:
    await world.released(1)
    world.server.models.clear()
    await world.deployments.reconcile()
    assert await world.state(1) is DeploymentState.LOADING
    assert world.board.shares() == {1: 100}
    await world.settle()
    assert await world.state(1) is DeploymentState.READY
    assert world.server.calls == ["load p.m.1", "load p.m.1"]


async def test_a_released_version_gets_all_traffic_and_the_one_before_leaves(world: World) -> None:
    await world.released(1)
    assert world.board.shares() == {1: 100}
    await world.released(2)
    assert world.board.shares()[2] == 100
    await world.settle()
    assert await world.state(1) is None
    assert [event.release for event in world.said(events.RolloutPromoted)] == [release(1), release(2)]
    assert world.outbox.cycles == ["c1"] * 3 + ["c2"] * 3


async def test_i2_the_same_release_told_twice_is_one_roll_out(world: World) -> None:
    await world.released(1)
    await world.released(1)
    assert len(world.said(events.RolloutStarted)) == 1


async def test_traffic_moves_step_by_step_as_answers_come(world: World) -> None:
    await world.released(1)
    policy = RolloutPolicy("projects/p/rolloutPolicies/x", MODEL, (10, 50, 100), min_answers=5)
    await world.rollouts.put_policy(policy, etag="", allow_missing=True)
    await world.released(2)
    seen = []
    for _ in range(3):
        seen.append(world.board.shares())
        for _ in range(5):
            await world.rollouts.count(version(2), release(2), failed=False)
            await world.rollouts.count(version(1), release(1), failed=True)  # The others' errors are theirs.
        await world.settle()
    assert seen == [{1: 90, 2: 10}, {1: 50, 2: 50}, {1: 0, 2: 100}]
    assert (await world.rollout(2)).state is RolloutState.PROMOTED
    assert [event.percent for event in world.said(events.RolloutAdvanced)] == [100, 10, 50, 100]


async def test_f17_a_release_whose_answers_fail_is_rolled_back(world: World) -> None:
    await world.released(1)
    policy = RolloutPolicy("projects/p/rolloutPolicies/x", MODEL, (10, 100), min_answers=50)
    await world.rollouts.put_policy(policy, etag="", allow_missing=True)
    await world.released(2)
    for _ in range(5):
        await world.rollouts.count(version(2), release(2), failed=True)
    await world.settle()
    await world.settle()
    assert world.board.shares() == {1: 100}
    (event,) = world.said(events.RolloutRolledBack)
    assert event.reason == "5 of 5 answers failed at 10 %, more than 10%"
    assert await world.state(2) is None


async def test_f17_a_release_that_cannot_be_loaded_is_rolled_back_and_the_old_one_serves_on(world: World) -> None:
    await world.released(1)
    world.server.failure = PreconditionFailed("MODEL_REFUSED", "bad file")
    await world.released(2)
    await world.settle()
    assert world.board.shares() == {1: 100}
    (event,) = world.said(events.RolloutRolledBack)
    assert event.reason == "it cannot be loaded: bad file"


async def test_a_newer_release_takes_the_place_of_one_in_its_roll_out(world: World) -> None:
    await world.released(1)
    policy = RolloutPolicy("projects/p/rolloutPolicies/x", MODEL, (10, 100), min_answers=5)
    await world.rollouts.put_policy(policy, etag="", allow_missing=True)
    await world.released(2)
    await world.released(3)
    assert (await world.rollout(2)).state is RolloutState.ROLLED_BACK
    assert {n: share for n, share in world.board.shares().items() if share} == {1: 90, 3: 10}


async def test_two_releases_of_one_version_serve_beside_each_other_each_with_its_own(world: World) -> None:
    units = {release(n): ServedUnit(f"projects/p/prompts/q/versions/{n}", (Message("system", str(n)),)) for n in (1, 2)}
    world.catalogue.units = units
    await world.released(1)
    policy = RolloutPolicy("projects/p/rolloutPolicies/x", MODEL, (10, 100), min_answers=5)
    await world.rollouts.put_policy(policy, etag="", allow_missing=True)
    await world.rollouts.start(release(2), version(1), "c2")
    await world.settle()
    routes = {route.release: route for route in world.board.newest.routes}
    assert {name: route.percent for name, route in routes.items()} == {release(1): 90, release(2): 10}
    assert {name: route.unit for name, route in routes.items()} == units
    assert len({route.triton_model for route in routes.values()}) == 1
    chosen = {choose_route(world.board.newest, MODEL, str(key)).release for key in range(200)}
    assert chosen == set(units)
    for _ in range(2):
        for _ in range(5):
            await world.rollouts.count(version(1), release(2), failed=False)
        await world.settle()
    (route,) = world.board.newest.routes
    assert (route.release, route.percent, route.unit) == (release(2), 100, units[release(2)])


async def test_a_release_that_no_door_can_apply_is_rolled_back(world: World) -> None:
    await world.released(1)
    world.catalogue.failures[release(2)] = PreconditionFailed("UNIT_NOT_SERVABLE", "no prompt")
    await world.released(2)
    await world.settle()
    assert world.board.shares()[1] == 100
    assert (await world.rollout(2)).reason == "the roll-out failed: no prompt"


async def test_a_revoked_release_gives_its_traffic_to_the_restored_one(world: World) -> None:
    await world.released(1)
    await world.released(2)
    await world.rollouts.revoked(release(2), "worse", Served(release(1), version(1)), "abc")
    await world.settle()
    await world.settle()
    assert {n: share for n, share in world.board.shares().items() if share} == {1: 100}
    await world.rollouts.revoked(release(1), "all bad", None, "def")
    await world.settle()
    await world.deployments.reconcile()
    assert world.board.shares() == {}


async def test_news_of_a_roll_back_that_is_over_changes_nothing(world: World) -> None:
    await world.released(1)
    before = world.board.newest
    await world.rollouts.revoked(release(2), "errors", Served(release(1), version(1)), "abc")
    await world.settle()
    assert world.board.newest == before


async def test_people_can_roll_back_while_it_is_not_over(world: World) -> None:
    await world.released(1)
    with pytest.raises(IllegalTransition):
        await world.rollouts.roll_back((await world.rollout(1)).name, "no")
    policy = RolloutPolicy("projects/p/rolloutPolicies/x", MODEL, (10, 100), min_answers=5)
    await world.rollouts.put_policy(policy, etag="", allow_missing=True)
    await world.released(2)
    ended = await world.rollouts.roll_back((await world.rollout(2)).name, "I do not like it")
    assert (ended.state, ended.reason) == (RolloutState.ROLLED_BACK, "I do not like it")
    assert world.board.shares()[1] == 100


async def test_f17_a_table_that_did_not_get_through_is_published_later(world: World) -> None:
    world.board.away = True
    await world.released(1)
    assert world.board.shares() == {}
    world.board.away = False
    await world.deployments.reconcile()
    assert world.board.shares() == {1: 100}


async def test_an_unknown_version_fails_its_deployment(world: World) -> None:
    await world.deployments.acquire(version(9), "a")
    await world.settle()
    assert await world.state(9) is DeploymentState.FAILED
    with pytest.raises(NotFound):
        await world.deployments.release("projects/p/deployments/none", "a")
