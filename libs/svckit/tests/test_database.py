import asyncio
import os
import signal
import time

import asyncpg
import pytest
from sqlalchemy import text

from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import ConcurrentChange, Unavailable
from mainspring_svckit.migrations import check, migrate
from mainspring_testkit.plugin import DatabaseFor
from mainspring_testkit.servers import PostgresServer, scratch_folder
from mainspring_testkit.waiting import eventually

PLATFORM = "mainspring_testkit.platform"


async def count(database: Database) -> int:
    async with database.transaction() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM effect")) or 0)


async def add(database: Database, what: str) -> None:
    await database.connection().execute(text("INSERT INTO effect (what) VALUES (:what)"), {"what": what})


async def test_an_inner_transaction_joins_the_outer_one(database_for: DatabaseFor) -> None:
    database = await database_for(PLATFORM)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            async with database.transaction():
                await add(database, "inner")
            raise ZeroDivisionError
    assert await count(database) == 0


async def test_a_task_does_not_inherit_the_transaction(database_for: DatabaseFor) -> None:
    database = await database_for(PLATFORM)

    async def writes_by_itself() -> None:
        with pytest.raises(RuntimeError, match="no transaction in this task"):
            database.connection()
        async with database.transaction():
            await add(database, "own")

    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            await asyncio.create_task(writes_by_itself())
            raise ZeroDivisionError
    assert await count(database) == 1


async def test_f7_a_deadlock_is_tried_again_until_both_are_through(database_for: DatabaseFor) -> None:
    database = await database_for(PLATFORM)
    async with database.transaction():
        await add(database, "a")
        await add(database, "b")
    both_hold_one = asyncio.Barrier(2)
    first_try = {"ab": True, "ba": True}

    async def lock_both(first: str, second: str) -> None:
        connection = database.connection()
        lock = text("UPDATE effect SET what = what WHERE what = :what")
        await connection.execute(lock, {"what": first})
        if first_try.pop(first + second, False):
            await both_hold_one.wait()
        await connection.execute(lock, {"what": second})

    await asyncio.gather(
        database.run(lambda: lock_both("a", "b")),
        database.run(lambda: lock_both("b", "a")),
    )
    assert not first_try


async def test_f7_a_conflict_that_stays_is_reported(database_for: DatabaseFor) -> None:
    database = await database_for(PLATFORM)
    tries = 0

    async def conflict() -> None:
        nonlocal tries
        tries += 1
        await database.connection().execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    with pytest.raises(ConcurrentChange):
        await database.run(conflict)
    assert tries == 4


async def test_f7_a_slow_statement_is_ended(postgres: PostgresServer) -> None:
    database = Database(await postgres.new_database(), service="test", statement_timeout_s=0.2)
    with pytest.raises(Unavailable):
        async with database.transaction() as connection:
            await connection.execute(text("SELECT pg_sleep(20)"))
    await database.close()


async def test_f7_a_full_pool_is_said_and_heals(postgres: PostgresServer) -> None:
    database = Database(await postgres.new_database(), service="test", pool_size=1, pool_timeout_s=0.1)
    async with database.transaction():
        with pytest.raises(Unavailable):
            await asyncio.create_task(database.ping())
    await database.ping()
    await database.close()


async def test_f6_the_pool_heals_after_a_killed_server() -> None:
    async with scratch_folder("f6") as folder:
        server = PostgresServer(folder)
        await server.start()
        try:
            database = Database(await server.new_database(PLATFORM), service="test")
            await database.ping()
            await server.kill()
            with pytest.raises(Unavailable):
                await database.ping()
            await server.start()

            async def answers() -> bool:
                try:
                    await database.ping()
                except Unavailable:
                    return False
                return True

            await eventually(answers, what="the database to answer again")
            await database.close()
        finally:
            await server.stop()


async def test_f6_a_connection_that_was_closed_while_it_was_idle_is_replaced(postgres: PostgresServer) -> None:
    database = Database(await postgres.new_database(), service="test", pool_size=1)
    async with database.transaction() as connection:
        backend = await connection.scalar(text("SELECT pg_backend_pid()"))
        driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    other = await asyncpg.connect(database.url)
    await other.execute("SELECT pg_terminate_backend($1)", backend)
    await other.close()

    async def heard() -> bool:
        return driver.is_closed()

    await eventually(heard, what="the driver to hear of it")
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) != backend
    await database.close()


async def test_a_notification_wakes_its_waiters_after_the_commit(database_for: DatabaseFor) -> None:
    database = await database_for(PLATFORM)
    listener = Listener(database.url, ("news",))
    running = asyncio.create_task(listener.run())
    with listener.subscribe("news", "mine") as mine, listener.subscribe("news") as all_of_it:
        assert await mine.wait(5)  # The connection itself wakes everybody.
        assert await all_of_it.wait(5)
        async with database.transaction():
            await database.notify("news", "other")
        assert await all_of_it.wait(5)
        assert not await mine.wait(0.05)
        async with database.transaction():
            await database.notify("news", "mine")
            assert not await mine.wait(0.05)
        assert await mine.wait(5)
    running.cancel()


async def test_a_listener_survives_the_loss_of_its_connection(database_for: DatabaseFor) -> None:
    database = await database_for(PLATFORM)
    listener = Listener(database.url, ("news",))
    running = asyncio.create_task(listener.run())
    with listener.subscribe("news") as news:
        assert await news.wait(5)
        async with database.transaction() as connection:
            await connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                     " AND datname = current_database() AND application_name = ''")
            )  # fmt: skip
        assert await news.wait(5)  # Woken by the reconnection, since something may have been missed.
        async with database.transaction():
            await database.notify("news", "")
        assert await news.wait(5)
    running.cancel()


async def test_f8_migrators_at_once_and_again_are_harmless(postgres: PostgresServer) -> None:
    url = await postgres.new_database()
    with pytest.raises(Unavailable, match="migrate"):
        await check(url, PLATFORM)
    await asyncio.gather(*(migrate(url, PLATFORM) for _ in range(3)))
    await migrate(url, PLATFORM)
    await check(url, PLATFORM)


async def test_f5_a_hanging_server_is_noticed_and_forgiven(postgres: PostgresServer) -> None:
    database = Database(await postgres.new_database(), service="test")
    async with database.transaction() as connection:
        backend = int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)
    os.kill(backend, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await database.ping()
        assert time.monotonic() - started < 5
    finally:
        os.kill(backend, signal.SIGCONT)
    await database.ping()
    await database.close()
