import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import InvalidInput, Unavailable
from mainspring_svckit.work import CHANNEL, Lease, LeaseLost, Worker, WorkQueue
from mainspring_testkit.plugin import DatabaseFor
from mainspring_testkit.waiting import eventually

PLATFORM = "mainspring_testkit.platform"


class Bench:
    """A queue with as many workers as a test wants."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.queue = WorkQueue(database)
        self.listener = Listener(database.url, (CHANNEL,))
        self.tasks = [asyncio.create_task(self.listener.run())]
        self.given_up: list[tuple[str, str]] = []

    def worker(self, handler: Callable[[Lease], Any], **options: Any) -> asyncio.Task[None]:
        async def exhausted(lease: Lease, error: Exception) -> None:
            self.given_up.append((lease.item.key, str(error)))

        options = {"poll_s": 0.1, "lease_s": 0.6, "on_exhausted": exhausted, **options}
        task = asyncio.create_task(Worker(self.database, self.listener, "job", handler, **options).run())
        self.tasks.append(task)
        return task

    async def enqueue(self, key: str, **payload: Any) -> None:
        async with self.database.transaction():
            await self.queue.enqueue("job", key, payload)

    async def state(self, key: str) -> str:
        async with self.database.transaction() as connection:
            return str(await connection.scalar(text("SELECT state FROM work WHERE key = :key"), {"key": key}))

    async def effects(self) -> list[str]:
        async with self.database.transaction() as connection:
            return list((await connection.scalars(text("SELECT what FROM effect ORDER BY id"))).all())

    async def write(self, what: str) -> None:
        await self.database.connection().execute(text("INSERT INTO effect (what) VALUES (:what)"), {"what": what})

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def bench(database_for: DatabaseFor):  # type: ignore[no-untyped-def]
    bench = Bench(await database_for(PLATFORM))
    yield bench
    await bench.close()


async def test_items_are_shared_and_done_once(bench: Bench) -> None:
    async def handle(lease: Lease) -> None:
        async with lease.complete():
            await bench.write(lease.item.key)

    for number in range(40):
        await bench.enqueue(f"k{number}", n=number)
    for _ in range(3):
        bench.worker(handle, concurrency=2)

    async def all_done() -> bool:
        return len(await bench.effects()) == 40

    await eventually(all_done)
    assert sorted(await bench.effects()) == sorted(f"k{number}" for number in range(40))


async def test_f13_a_paused_owner_cannot_write(bench: Bench) -> None:
    """The first worker is paused beyond its lease; the second takes over; the first wakes up."""
    paused, resume = asyncio.Event(), asyncio.Event()
    outcomes: list[str] = []

    async def sleepy(lease: Lease) -> None:
        # As if the whole process stood still: neither the handler nor the renewal runs.
        lease.renew = asyncio.Event().wait  # type: ignore[method-assign, assignment]
        paused.set()
        await resume.wait()
        try:
            async with lease.transaction():
                await bench.write("by the first")
        except LeaseLost:
            outcomes.append("refused")
            raise

    async def awake(lease: Lease) -> None:
        async with lease.complete():
            await bench.write("by the second")

    await bench.enqueue("k")
    bench.worker(sleepy)
    await paused.wait()
    bench.worker(awake)

    async def second_done() -> bool:
        return await bench.state("k") == "done"

    await eventually(second_done)
    resume.set()

    async def refused() -> bool:
        return outcomes == ["refused"]

    await eventually(refused)
    assert await bench.effects() == ["by the second"]


async def test_a_handler_keeps_its_lease_as_long_as_it_works(bench: Bench) -> None:
    started: list[int] = []

    async def slow(lease: Lease) -> None:
        started.append(lease.item.attempt)
        for _ in range(6):
            await asyncio.sleep(0.3)  # Three leases long.
        async with lease.complete():
            await bench.write("done")

    await bench.enqueue("k")
    bench.worker(slow)
    bench.worker(slow)

    async def done() -> bool:
        return await bench.state("k") == "done"

    await eventually(done)
    assert started == [1]


async def test_a_stopped_worker_gives_its_item_back_at_once(bench: Bench) -> None:
    claimed = asyncio.Event()

    async def endless(_: Lease) -> None:
        claimed.set()
        await asyncio.Event().wait()

    attempts: list[int] = []

    async def handle(lease: Lease) -> None:
        attempts.append(lease.item.attempt)
        async with lease.complete():
            pass

    await bench.enqueue("k")
    first = bench.worker(endless, lease_s=600)
    await claimed.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    bench.worker(handle, lease_s=600)

    async def done() -> bool:
        return await bench.state("k") == "done"

    await eventually(done)
    assert attempts == [1]  # An orderly stop is not an attempt.


async def test_passing_trouble_is_tried_again_and_then_given_up(bench: Bench) -> None:
    attempts: list[int] = []

    async def away(lease: Lease) -> None:
        attempts.append(lease.item.attempt)
        raise Unavailable("DEPENDENCY", "away")

    await bench.enqueue("k")
    bench.worker(away, max_attempts=2)

    async def given_up() -> bool:
        return bench.given_up == [("k", "away")]

    await eventually(given_up)
    assert attempts == [1, 2]
    assert await bench.state("k") == "done"


async def test_hopeless_trouble_is_given_up_at_once(bench: Bench) -> None:
    async def bad(_: Lease) -> None:
        raise InvalidInput("never")

    await bench.enqueue("k")
    bench.worker(bad)

    async def given_up() -> bool:
        return bench.given_up == [("k", "never")]

    await eventually(given_up)


async def test_a_cancelled_item_stops_its_worker(bench: Bench) -> None:
    claimed, ended = asyncio.Event(), asyncio.Event()

    async def endless(_: Lease) -> None:
        claimed.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await bench.enqueue("k")
    bench.worker(endless)
    await claimed.wait()
    async with bench.database.transaction():
        await bench.queue.cancel("job", "k")
    await asyncio.wait_for(ended.wait(), 5)
    assert await bench.state("k") == "dead"


async def test_an_effect_that_fails_leaves_the_item_undone(bench: Bench) -> None:
    tries: list[int] = []

    async def fails_first(lease: Lease) -> None:
        tries.append(lease.item.attempt)
        async with lease.complete():
            await bench.write("half")
            if len(tries) == 1:
                raise RuntimeError("after the write")

    await bench.enqueue("k")
    bench.worker(fails_first)

    async def done() -> bool:
        return await bench.state("k") == "done"

    await eventually(done)
    assert await bench.effects() == ["half"]


async def test_work_put_in_a_transaction_that_rolls_back_is_not_there(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError):
        async with bench.database.transaction():
            await bench.queue.enqueue("job", "k")
            raise ZeroDivisionError
    assert await bench.state("k") == "None"


async def test_work_asked_for_while_it_is_done_is_done_again_after_that(bench: Bench) -> None:
    first_runs, finish_first = asyncio.Event(), asyncio.Event()

    async def handle(lease: Lease) -> None:
        first_runs.set()
        await finish_first.wait()
        async with lease.complete():
            await bench.write(str(lease.item.payload["n"]))

    await bench.enqueue("k", n=1)
    bench.worker(handle)
    bench.worker(handle)
    await first_runs.wait()
    async with bench.database.transaction():
        await bench.queue.enqueue("job", "k", {"n": 2}, coalesce=True)
    finish_first.set()

    async def both() -> bool:
        return await bench.effects() == ["1", "2"]

    await eventually(both)


async def test_work_that_asks_for_itself_again_is_done_again(bench: Bench) -> None:
    async def handle(lease: Lease) -> None:
        number = lease.item.payload["n"]
        async with lease.complete():
            await bench.write(str(number))
            if number < 3:
                await bench.queue.enqueue("job", "k", {"n": number + 1}, coalesce=True)

    await bench.enqueue("k", n=1)
    bench.worker(handle)

    async def all_three() -> bool:
        return await bench.effects() == ["1", "2", "3"] and await bench.state("k") == "done"

    await eventually(all_three)


async def test_a_project_has_no_more_workers_than_its_quota_and_priority_goes_first(bench: Bench) -> None:
    working: dict[str, int] = {"p": 0, "q": 0}
    most, order, go = dict(working), list[str](), asyncio.Event()

    async def handle(lease: Lease) -> None:
        project = lease.item.key.split("/")[1]
        order.append(lease.item.key)
        working[project] += 1
        most[project] = max(most[project], working[project])
        await go.wait()
        working[project] -= 1
        async with lease.complete():
            await bench.write(lease.item.key)

    async with bench.database.transaction():
        for number in range(6):
            await bench.queue.enqueue("job", f"projects/p/jobs/{number}", priority=number)
        await bench.queue.enqueue("job", "projects/q/jobs/0", priority=-1)
    for _ in range(3):
        bench.worker(handle, concurrency=2, max_per_project=2)

    async def full() -> bool:
        return working == {"p": 2, "q": 1}

    await eventually(full)
    assert set(order) == {"projects/p/jobs/5", "projects/p/jobs/4", "projects/q/jobs/0"}
    go.set()

    async def all_done() -> bool:
        return len(await bench.effects()) == 7

    await eventually(all_done)
    assert most == {"p": 2, "q": 1}


async def test_many_items_are_claimed_in_their_order_and_one_that_is_forgotten_is_lost_to_its_worker(
    bench: Bench,
) -> None:
    keys, seen, lost = [f"k{number}" for number in reversed(range(12))], list[str](), asyncio.Event()

    async def handle(lease: Lease) -> None:
        seen.append(lease.item.key)
        if len(seen) == len(keys):
            async with bench.database.transaction():
                await bench.queue.forget("job", [lease.item.key])
            try:
                async with lease.complete():
                    await bench.write("too late")
            except LeaseLost:
                lost.set()
                raise
        async with lease.complete():
            pass

    async with bench.database.transaction():
        await bench.queue.enqueue_all("job", keys)
    bench.worker(handle)
    async with asyncio.timeout(30):
        await lost.wait()
    assert seen == keys
    assert await bench.effects() == []


async def test_a_few_items_do_not_wait_until_many_that_were_added_before_are_done(bench: Bench) -> None:
    seen = list[str]()

    async def handle(lease: Lease) -> None:
        async with lease.complete():
            seen.append(lease.item.key)

    async def all_done() -> bool:
        return len(seen) == 8

    for keys, after in ((["a1", "a2", "a3"], 0), (["b1", "b2"], 0), (["a4", "a5"], 3), (["b3"], 2)):
        async with bench.database.transaction():
            await bench.queue.enqueue_all("job", keys, after=after)
    bench.worker(handle)
    await eventually(all_done)
    assert seen == ["a1", "b1", "a2", "b2", "a3", "b3", "a4", "a5"]


@pytest.mark.parametrize("retries_first", [True, False])
async def test_an_item_that_is_tried_again_goes_first_where_it_is_wanted(bench: Bench, retries_first: bool) -> None:
    seen = list[str]()

    async def handle(lease: Lease) -> None:
        seen.append(lease.item.key)
        if len(seen) == 1:
            raise Unavailable("AWAY", "not now")
        async with lease.complete():
            # The wait for the next try is over.
            await bench.database.connection().execute(text("UPDATE work SET run_after = now() WHERE key = 'k0'"))

    async def all_done() -> bool:
        return len(seen) == 4

    for number in range(3):
        await bench.enqueue(f"k{number}")
    bench.worker(handle, retries_first=retries_first)
    await eventually(all_done)
    assert seen == (["k0", "k1", "k0", "k2"] if retries_first else ["k0", "k1", "k2", "k0"])


async def test_a_worker_claims_no_more_than_it_has_room_for(bench: Bench) -> None:
    rooms, claimed, end = asyncio.Semaphore(1), list[str](), asyncio.Event()

    async def handle(lease: Lease) -> None:
        claimed.append(lease.item.key)
        await end.wait()
        async with lease.complete():
            pass

    async def has(count: int) -> None:
        async def claimed_so_many() -> bool:
            return len(claimed) == count

        await eventually(claimed_so_many)

    for number in range(3):
        await bench.enqueue(f"k{number}")
    bench.worker(handle, concurrency=3, room=rooms.acquire)
    await has(1)
    assert rooms.locked()
    rooms.release()
    await has(2)
    bench.worker(handle)
    await has(3)
    end.set()
