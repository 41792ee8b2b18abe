"""A run's questions are asked by all replicas together: shards, who takes them, and what becomes of a dead one's."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from mainspring.evaluation.v1 import run_pb2
from mainspring.events.v1.evaluation_events_pb2 import EvaluationRunCompleted
from mainspring_evaluator.adapters.shards import PostgresShards
from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.ports import Shards
from mainspring_evaluator.application.runs import RELEASE_WORK
from mainspring_evaluator.application.sharing import ANSWER_WORK, Answering
from mainspring_evaluator.domain.inquiries import Bounds, Inquiry, Shard, Tally, Use, Version, parts
from mainspring_evaluator.domain.items import Answer
from mainspring_evaluator.domain.runs import EvaluationRun
from mainspring_evaluator.domain.suites import Budget, Price, Retrieval, Sampling
from mainspring_svckit import watching
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.values import GuardAction, GuardDirection, GuardRule, Message, ServedGuard, ServedUnit
from mainspring_svckit.work import LeaseLost
from mainspring_testkit.events import EventTap
from mainspring_testkit.fakes import FakeLease, FakeTransactions, FakeWork
from mainspring_testkit.plugin import DatabaseFor
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.waiting import eventually

from .fakes import BASE, FIRST, FakeInference, FakeShards
from .plane import QUESTIONS, Plane, version
from .processes import Evaluator, all_let_go, start_evaluator
from .test_use_cases import SUITE, World

RUN, OTHER_RUN = "projects/p/evaluationRuns/a", "projects/p/evaluationRuns/b"


def shard(name: str, run: str = RUN, stage: str = "candidate", questions: int = 2) -> Shard:
    prompts = tuple((Message("user", f"{name} {number} \x00 é"),) for number in range(questions))
    rules = (GuardRule("r", GuardDirection.BOTH, GuardAction.MASK, "x", texts=("y",)),)
    guard = ServedGuard("projects/p/guardPolicies/g/versions/1", "sha", rules)
    unit = ServedUnit("projects/p/prompts/q/versions/1", temperature=0.5, guard=guard)
    inquiry = Inquiry(Version(FIRST, "m1", unit), prompts, Sampling(7, 0.5, 3), Retrieval("c", 2), timed=True)
    return Shard(f"{run}/shards/{name}", run, stage, inquiry, Bounds(Budget(5, 1.5, 2.5), Price(0.5, 1.5)))


class ShardsContract:
    """What every store of shards does. Subclasses give `shards` and `transaction`."""

    async def test_a_shard_is_what_was_kept_and_is_gone_with_its_run(self, shards: Shards, transaction: Any) -> None:
        made = [shard("1"), shard("2"), shard("1", OTHER_RUN)]
        async with transaction():
            await shards.add([])
            await shards.add(made)
        async with transaction():
            assert [await shards.get(each.name) for each in made] == made
            assert sorted(await shards.names(RUN)) == [each.name for each in made[:2]]
            await shards.drop(RUN)
            assert (await shards.names(RUN), await shards.names(OTHER_RUN)) == ([], [made[2].name])
            assert (await shards.tallies(RUN), await shards.used(RUN)) == ({}, Use())
            with pytest.raises(NotFound):
                await shards.get(made[0].name)

    async def test_what_is_left_made_and_used_adds_up_by_stage(self, shards: Shards, transaction: Any) -> None:
        first, second, base = shard("1", questions=3), shard("2"), shard("3", stage="baseline")
        async with transaction():
            await shards.add([first, second, base, shard("4", OTHER_RUN)])
            await shards.found(first.name, 1)
            await shards.made(first.name, [Answer("x", 1, input_tokens=10, output_tokens=3)])
            await shards.made(base.name, [Answer("x", 1, input_tokens=5, output_tokens=1), Answer("y", 1)])
        async with transaction():
            assert await shards.tallies(RUN) == {"candidate": Tally(2, 3, 1), "baseline": Tally(1, 0, 2)}
            used = await shards.used(RUN)
            assert (used.input_tokens, used.output_tokens) == (15, 4)
            assert used.elapsed_s >= 0
            await shards.close(first.name)
            await shards.close(base.name, ("INFERENCE_FAILED", "it says no"))
        async with transaction():
            assert await shards.tallies(RUN) == {
                "candidate": Tally(1, 2, 1),
                "baseline": Tally(0, 0, 2, ("INFERENCE_FAILED", "it says no")),
            }


class TestFakeShards(ShardsContract):
    @pytest.fixture
    def shards(self) -> Shards:
        return FakeShards()

    @pytest.fixture
    def transaction(self) -> Any:
        return FakeTransactions().transaction


class TestPostgresShards(ShardsContract):
    @pytest.fixture
    async def database(self, database_for: DatabaseFor) -> Database:
        return await database_for("mainspring_evaluator")

    @pytest.fixture
    def transaction(self, database: Database) -> Any:
        return database.transaction

    @pytest.fixture
    async def listener(self, database: Database) -> AsyncIterator[Listener]:
        made = Listener(database.url, (watching.CHANNEL,))
        with made.subscribe(watching.CHANNEL, "is it there") as ear:
            running = asyncio.create_task(made.run())
            assert await ear.wait(30)
        yield made
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    @pytest.fixture
    def shards(self, database: Database, listener: Listener) -> PostgresShards:
        return PostgresShards(database, listener)

    async def test_the_end_of_a_shard_wakes_who_waits_for_its_run(
        self, shards: PostgresShards, transaction: Any
    ) -> None:
        async with transaction():
            await shards.add([shard("1")])
        with shards.changes(RUN) as changes:
            async with transaction():
                await shards.close(shard("1").name)
            assert await changes.wait(30)


def test_questions_are_parted_evenly_and_in_order() -> None:
    assert parts(0, 8) == []
    assert parts(8, 8) == [range(8)]
    assert parts(10, 4) == [range(3), range(3, 6), range(6, 10)]
    assert [number for part in parts(1_000, 32) for number in part] == list(range(1_000))


@pytest.mark.parametrize(
    ("used", "told"),
    [
        (Use(0, 101, 0), "101 tokens"),
        (Use(0, 0, 60.5), "60 s"),
        (Use(2_000_000, 0, 0), "answers for 2,"),
        (Use(1_000_000, 100, 60), ""),
    ],
)
def test_what_a_run_used_is_held_against_all_bounds(used: Use, told: str) -> None:
    bounds = Bounds(Budget(100, 60, 1.5), Price(1, 1))
    if not told:
        bounds.check(used)
        return
    with pytest.raises(PreconditionFailed, match=told) as caught:
        bounds.check(used)
    assert caught.value.reason == "BUDGET_EXCEEDED"
    Bounds().check(used)


async def shared_out(world: World, questions: str, bounds: Bounds = Bounds()) -> str:  # noqa: B008 - It is frozen.
    """A shard with a question for each word."""
    prompts = tuple((Message("user", question),) for question in questions.split())
    made = Shard(f"{RUN}/shards/1", RUN, "candidate", Inquiry(Version(FIRST, "m1"), prompts, Sampling()), bounds)
    await world.ports.runs.add(EvaluationRun(RUN, SUITE, FIRST, world.ports.clock.now()))
    await world.shards.add([made])
    await world.inference.hold(FIRST, RUN)
    return made.name


def alone(world: World, *, concurrency: int = 1) -> Answering:
    """One replica."""
    return Answering(world.ports, Generation(world.ports, concurrency=concurrency, tries=1, retry_wait_s=0))


async def test_f13_a_replica_that_lost_its_shard_keeps_no_answer_and_counts_none() -> None:
    world = World()
    name = await shared_out(world, "red blue green")
    answering = alone(world)
    with pytest.raises(LeaseLost):
        await answering.answer(name, FakeLease(lasts=3))
    assert (len(world.answers.rows), len(world.shards.counts[name])) == (1, 1)
    await answering.answer(name, FakeLease())
    assert len(world.inference.asked) == 5, "only the two that were in hand are asked again"
    assert await world.shards.tallies(RUN) == {"candidate": Tally(0, 0, 3)}


async def test_a_shard_that_is_tried_again_holds_its_version_anew_while_a_question_waits() -> None:
    world = World()
    name, answering = await shared_out(world, "red blue"), alone(world)
    world.inference.held.clear()  # Its deployment was made anew.
    with pytest.raises(Unavailable):
        await answering.answer(name, FakeLease())
    await answering.answer(name, FakeLease(), again=True)
    assert world.inference.held == {(FIRST, RUN)}
    world.inference.held.clear()
    await answering.answer(name, FakeLease(), again=True)
    assert world.inference.held == set(), "nobody needs it any more"


async def test_what_a_run_used_is_looked_up_only_where_a_budget_bounds_it() -> None:
    class Counting(FakeShards):
        looked_up = 0

        async def used(self, run: str) -> Use:
            self.looked_up += 1
            return await super().used(run)

    price = Price(1, 1)
    for bounds, times in ((Bounds(price=price), 0), (Bounds(Budget(max_cost=1), price), 2)):
        shards = Counting()
        world = World(shards=shards)
        await alone(world).answer(await shared_out(world, "red blue", bounds), FakeLease())
        assert shards.looked_up == times


class Remembering(FakeWork):
    """Knows how long each item waits, and behind how many."""

    def __init__(self) -> None:
        super().__init__()
        self.delays_s: dict[str, float] = {}
        self.after: list[int] = []

    async def enqueue(self, kind: str, key: str, *payload: Any, delay_s: float = 0, **more: Any) -> None:
        self.delays_s[kind] = delay_s
        await super().enqueue(kind, key, *payload, delay_s=delay_s, **more)

    async def enqueue_all(self, kind: str, keys: Sequence[str], *, after: int = 0) -> None:
        self.after.append(after)
        await super().enqueue_all(kind, keys, after=after)


async def test_models_are_let_go_after_all_replicas_have_heard_that_their_shards_are_gone() -> None:
    for is_open in (True, False):
        world = World(work=Remembering())
        name = await shared_out(world, "red")
        if not is_open:
            await world.shards.close(name)
        await world.runs.give_up(RUN, "SOME_REASON", "so it is")
        assert world.work.delays_s[RELEASE_WORK] == (1 if is_open else 0)  # type: ignore[attr-defined]


async def test_a_runs_later_shards_stand_behind_its_earlier_ones() -> None:
    world = World(work=Remembering())
    await world.run()
    assert world.work.after == [0, 1], "one shard of the candidate, and then one of the baseline"  # type: ignore[attr-defined]


async def test_a_stage_that_failed_is_not_shared_out_again_by_the_next_owner() -> None:
    world = World()
    world.inference.failures = {"red": [PreconditionFailed("NO", "no")]}
    await world.suites.put(SUITE, etag="", allow_missing=True)
    run = await world.runs.create(SUITE.name, FIRST)
    for _ in range(2):
        with pytest.raises(PreconditionFailed, match="was refused"):
            await world.evaluation.run(run.name, FakeLease())
        assert world.shards.stages == ["candidate", "baseline"]


@pytest.mark.parametrize("ended", [True, False])
async def test_shards_that_a_replica_of_an_older_version_left_behind_are_cleared_away(ended: bool) -> None:
    world = World()
    name = await shared_out(world, "red")
    await world.work.enqueue_all(ANSWER_WORK, [name])
    run = await world.stored(RUN)
    if ended:
        await world.ports.runs.put(run.cancelled(world.ports.clock.now()))
    else:
        world.ports.runs.rows.clear()  # type: ignore[attr-defined]
    await alone(world).answer(name, FakeLease())
    assert (world.inference.asked, world.work.queued, await world.shards.names(RUN)) == ([], {}, [])


class Gated(FakeInference):
    """Answers as often as it may."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.waiting = asyncio.Semaphore(0), 0

    async def answer(self, *question: Any, **how: Any) -> Answer:
        self.waiting += 1
        await self.gate.acquire()
        self.waiting -= 1
        return await super().answer(*question, **how)


async def test_a_replica_takes_another_shard_when_no_more_questions_wait_than_it_asks_at_a_time() -> None:
    inference = Gated()
    world = World(inference=inference)
    name = await shared_out(world, "red blue green red blue green red blue")
    answering = alone(world, concurrency=2)
    await answering.room()
    work = asyncio.create_task(answering.answer(name, FakeLease()))
    another = asyncio.create_task(answering.room())

    async def answered(count: int) -> None:
        async def so_many() -> bool:
            return len(inference.asked) == count and inference.waiting == 2

        await eventually(so_many)

    for count in range(4):
        await answered(count)
        assert not another.done(), "of eight questions two are asked, and more than two wait"
        inference.gate.release()
    await answered(4)
    await another
    for _ in range(4):
        inference.gate.release()
    await work
    with pytest.raises(NotFound):
        await answering.answer("projects/p/evaluationRuns/a/shards/none", FakeLease())
    await answering.room()


@pytest.fixture
async def pair(
    surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, plane: tuple[Plane, str]
) -> Evaluator:
    """Two replicas that ask two questions at a time, which makes shards of eight."""
    database = await postgres.new_database("mainspring_evaluator")
    made = await start_evaluator(surroundings, database, artifact_url, plane, answers_at_a_time=2)
    await made.put_suite()
    await made.register(1)
    return made


async def both_at_it(pair: Evaluator) -> run_pb2.EvaluationRun:
    """A run whose first questions both replicas have asked, and nobody has answered."""
    plane = pair.plane
    plane.stop_after = 0
    plane.may_answer.clear()
    run = await pair.create(version(1), request_id=new_id())
    await eventually(lambda: busy(plane, 2, 2), within_s=60, what="both replicas to ask")
    return run


async def busy(plane: Plane, replicas: int, questions: int) -> bool:
    return sum(asking == questions for asking in plane.asking.values()) == replicas


async def quiet(plane: Plane) -> bool:
    return not any(plane.asking.values())


def answer(plane: Plane, count: float) -> None:
    """Lets answers out until there are about so many."""
    plane.stop_after = count
    plane.may_answer.set()
    if count < math.inf:
        plane.may_answer.clear()


async def measured(pair: Evaluator, run: str) -> tuple[run_pb2.EvaluationRun, list[Any]]:
    done = (await pair.watch(run))[-1]
    assert done.state == run_pb2.EvaluationRun.STATE_SUCCEEDED, done.error.message
    items = (await pair.call("ListEvaluationItems", parent=run, page_size=100)).evaluation_items
    return done, [(i.index, i.candidate_text, i.baseline_text, i.candidate_scores, i.baseline_scores) for i in items]


async def test_i7_replicas_share_a_runs_questions_and_find_what_one_alone_finds(pair: Evaluator) -> None:
    pair.plane.latency_s = lambda question: int(question.split()[-1]) / 64
    plane, run = pair.plane, await both_at_it(pair)
    answer(plane, math.inf)
    done, items = await measured(pair, run.name)
    assert done.candidate_latency.p50.ToNanoseconds() < done.candidate_latency.p95.ToNanoseconds()
    shares = [len(asked) for asked in plane.by_replica.values()]
    assert len(shares) == 2
    assert min(shares) > 0
    assert sum(shares) == sum(plane.asked.values()) == len(plane.asked) == 48, "each question was asked once"
    assert plane.most_at_a_time == 2, "in each replica"
    assert (done.progress.done, done.progress.total, done.generated_answers) == (48, 48, 48)
    await pair.replicas.pop().stop()
    for number in (2, 3):  # As the first two answer, but not from the cache.
        await pair.register(number)
    plane.dull.add(version(3))
    plane.by_replica.clear()
    alone = await pair.create(version(2), baseline=version(3))
    again, same_items = await measured(pair, alone.name)
    assert len(plane.by_replica) == 1
    assert list(again.results) == list(done.results)
    assert same_items == items
    assert again.candidate_latency == done.candidate_latency


def replica_of(pair: Evaluator, *, owner: bool) -> ServiceProcess:
    """The replica that has the run, or the one that helps."""
    (found,) = [
        replica
        for replica in pair.replicas
        if any(
            "work_claimed" in line and '"evaluation-run"' in line
            for line in (replica.folder / "log").read_text().splitlines()
        )
        is owner
    ]
    return found


@pytest.mark.parametrize("dies", ["owner", "helper"])
async def test_f1_of_a_replica_killed_while_it_answers_nothing_is_lost_and_only_what_it_had_in_hand_asked_again(
    pair: Evaluator, event_tap: EventTap, dies: str
) -> None:
    plane, run = pair.plane, await both_at_it(pair)
    answer(plane, 12)

    async def in_the_midst() -> bool:
        return sum(plane.asked.values()) >= 12 and await busy(plane, 2, 2)

    await eventually(in_the_midst, within_s=60, what="both replicas to wait for answers again")
    assert len(plane.by_replica) == 2
    dead = replica_of(pair, owner=dies == "owner")
    await dead.kill()
    pair.replicas.remove(dead)
    answer(plane, math.inf)
    done, items = await measured(pair, run.name)
    assert len(items) == len(QUESTIONS)
    assert len(plane.asked) == 48
    # What the dead one had asked may be answered yet, to nobody, and what it was about to keep is not kept.
    assert sum(plane.asked.values()) <= 48 + 8
    assert (done.progress.done, done.generated_answers) == (48, 48), "what the dead one made is counted too"
    await event_tap.wait_for(EvaluationRunCompleted)
    await all_let_go(pair)
    assert len(event_tap.of(EvaluationRunCompleted)) == 1


async def test_a_budget_and_a_cancellation_hold_for_all_replicas(pair: Evaluator) -> None:
    plane, run = pair.plane, await both_at_it(pair)
    cancelled = await pair.call("CancelEvaluationRun", name=run.name)
    assert cancelled.evaluation_run.state == run_pb2.EvaluationRun.STATE_CANCELLED
    answer(plane, math.inf)
    await eventually(lambda: quiet(plane), within_s=60, what="both replicas to hear of it")
    await all_let_go(pair)
    assert sum(plane.asked.values()) < 48 // 2 + 8, "what was in hand, and little more"
    plane.asked.clear()
    await pair.put_suite(budget={"max_generated_tokens": 100})  # Ten an answer.
    run = await both_at_it(pair)
    answer(plane, math.inf)
    failed = (await pair.watch(run.name))[-1]
    assert failed.state == run_pb2.EvaluationRun.STATE_FAILED
    assert "tokens, its suite allows 100" in failed.error.message
    assert sum(plane.asked.values()) < 48 // 2 + 8, "what was in hand when it was used up, and little more"
    assert {asked for asked, _ in plane.asked} <= {version(1), BASE}
