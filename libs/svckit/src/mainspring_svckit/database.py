"""Postgres for one service: sessions, transactions, wake-ups.

A transaction is ambient: code that needs the database calls `connection()` inside `async with database.transaction()`,
and an inner `transaction()` joins the outer one. That is how a use case, the event that it emits and the mark that its
request or event was handled commit together or not at all. The ambient transaction belongs to one task; a task started
inside it does not inherit it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from mainspring_svckit.errors import ConcurrentChange, InsufficientStorage, InvalidInput, Unavailable
from mainspring_svckit.logs import get_logger

T = TypeVar("T")
log = get_logger(__name__)

_CONFLICTS = {"40001", "40P01", "55P03"}  # serialisation failure, deadlock, lock not available
_AWAY = {"53300", "57P01", "57P02", "57P03", "25006", "57014"}  # full, shutting down, starting, read-only, timed out
_DISK_FULL = "53100"
_NUL = {"22P05", "22021"}  # a NUL in JSON or in text; the only text that Postgres cannot hold
_CONFLICT_TRIES = 4
_TRUSTED_IDLE_S = 1.0
_STANDSTILL_S = 20
"""A process that is paused in a transaction keeps from others what it has locked, the outbox's relay among it, for so
long; then the server ends its transaction.
"""

_ambient: ContextVar[tuple[AsyncConnection, asyncio.Task[Any] | None] | None] = ContextVar("ambient", default=None)


class Database:
    """One pool of connections to one database."""

    def __init__(
        self,
        url: str,
        *,
        service: str,
        pool_size: int = 8,
        statement_timeout_s: float = 10.0,
        lock_timeout_s: float = 10.0,
        pool_timeout_s: float = 5.0,
    ) -> None:
        """Connects lazily.

        Args:
            url: `postgresql://user:password@host:port/database`.
            service: Shown in `pg_stat_activity`.
            pool_size: Most connections.
            statement_timeout_s: Longest statement; the server ends it and the caller gets `Unavailable`.
            lock_timeout_s: Longest wait for a lock; then the transaction is tried again.
            pool_timeout_s: Longest wait for a free connection; then the caller gets `Unavailable`.
        """
        self.url = url
        settings = {
            "application_name": f"mainspring-{service}",
            "statement_timeout": str(int(statement_timeout_s * 1000)),
            "lock_timeout": str(int(lock_timeout_s * 1000)),
            "idle_in_transaction_session_timeout": str(_STANDSTILL_S * 1000),
        }
        self._engine = create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_s,
            connect_args={
                "server_settings": settings,
                "command_timeout": statement_timeout_s + 2,
                "timeout": 10,
            },
        )

        _replace_lost(self._engine.sync_engine)

    async def close(self) -> None:
        """Closes the pool."""
        await self._engine.dispose()

    def connection(self) -> AsyncConnection:
        """The connection of the ambient transaction.

        Raises:
            RuntimeError: There is none in this task; the code has forgotten `async with database.transaction()`.
        """
        held = _ambient.get()
        if held is None or held[1] is not asyncio.current_task():
            raise RuntimeError("no transaction in this task; wrap the code in 'async with database.transaction()'")
        return held[0]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Joins the ambient transaction, or begins one that commits at the end and rolls back when an error leaves the
        block.

        Raises:
            ConcurrentChange: Another transaction was in the way; the whole block may be repeated.
            Unavailable: The database is away, full or too slow. When that happens at the commit the outcome is unknown;
                repeating with the same request id or event id settles it.
        """
        held = _ambient.get()
        if held is not None and held[1] is asyncio.current_task():
            yield held[0]
            return
        with translated_errors():
            async with self._engine.begin() as connection:
                token = _ambient.set((connection, asyncio.current_task()))
                try:
                    yield connection
                finally:
                    _ambient.reset(token)

    async def run(self, body: Callable[[], Awaitable[T]]) -> T:
        """Runs `body` in a transaction, again when another transaction was in the way, at most four times."""
        for attempt in range(_CONFLICT_TRIES):
            try:
                async with self.transaction():
                    return await body()
            except ConcurrentChange as err:
                if err.reason != "TRANSACTION_CONFLICT" or attempt == _CONFLICT_TRIES - 1:
                    raise
                await asyncio.sleep(0.02 * 2**attempt)
        raise AssertionError("unreachable")

    async def notify(self, channel: str, payload: str) -> None:
        """Wakes those who wait on `channel`, once the ambient transaction commits."""
        await self.connection().execute(
            text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload}
        )

    async def ping(self) -> None:
        """Raises `Unavailable` unless the database answers within two seconds."""
        try:
            async with asyncio.timeout(2), self.transaction() as connection:
                await connection.execute(text("SELECT 1"))
        except TimeoutError as err:
            raise Unavailable("DATABASE_UNAVAILABLE", "the database does not answer") from err


def _replace_lost(engine: Engine) -> None:
    """Hands out no connection that was lost while nobody used it.

    The driver knows of one that the server has closed; one that was idle for long is asked, since a half-open one shows
    only when it is used. SQLAlchemy's own pre-ping asks each time, which costs three round trips for each transaction.
    """

    @event.listens_for(engine, "checkin")
    def note(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection: Any, record: Any, _proxy: Any) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError("the server has closed the connection")
        idle_since = record.info.get("idle_since")  # None for a new one.
        if idle_since is not None and time.monotonic() - idle_since > _TRUSTED_IDLE_S:
            try:
                connection.ping()
            except Exception as err:
                raise DisconnectionError("the connection does not answer") from err


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns the driver's errors into those of our tree."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as err:
        state = _sqlstate(err)
        if state in _CONFLICTS:
            raise ConcurrentChange("TRANSACTION_CONFLICT", "another change was in the way; try again") from err
        if state == _DISK_FULL:
            raise InsufficientStorage("the database") from err
        if state in _NUL:
            raise InvalidInput("text must not hold NUL characters; remove them", reason="NUL_CHARACTER") from err
        lost = isinstance(err, (OperationalError, InterfaceError, PoolTimeoutError, OSError, asyncpg.InterfaceError))
        if lost or state in _AWAY or state.startswith("08") or getattr(err, "connection_invalidated", False):
            log.warning("database_unavailable", error=type(err).__name__, sqlstate=state)
            raise Unavailable("DATABASE_UNAVAILABLE", "the database is away; try again in a moment") from err
        raise


def _sqlstate(err: BaseException) -> str:
    origin: object = getattr(err, "orig", None) or err
    return str(getattr(origin, "sqlstate", None) or "")


class Subscription:
    """Wake-ups for one waiter; several notifications between two waits are one wake-up."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Wakes the waiter, now or at its next wait."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Waits for a wake-up; False when none came in time. Callers look at the database either way."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Listener:
    """Hears Postgres notifications on one connection and hands them to waiters.

    A notification is a hint to look, never the news itself: after a lost connection every waiter is woken, since
    something may have been missed.
    """

    def __init__(self, url: str, channels: tuple[str, ...]) -> None:
        self._dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._channels = channels
        self._waiters: dict[tuple[str, str], set[Subscription]] = {}

    @contextmanager
    def subscribe(self, channel: str, payload: str = "") -> Iterator[Subscription]:
        """Wake-ups for notifications on `channel`, with exactly `payload` when one is given."""
        key, subscription = (channel, payload), Subscription()
        self._waiters.setdefault(key, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._waiters[key].discard(subscription)
            if not self._waiters[key]:
                del self._waiters[key]

    async def run(self) -> None:
        """Listens until cancelled, reconnecting with growing waits."""
        failures = 0
        while True:
            try:
                await self._listen()
                failures = 0
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                failures += 1
                log.warning("listener_reconnecting", failures=failures)
            self._wake_all()
            await asyncio.sleep(min(5.0, 0.1 * 2**failures))

    async def _listen(self) -> None:
        connection: Any = await asyncpg.connect(self._dsn, timeout=10)
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            for channel in self._channels:
                await connection.add_listener(channel, self._heard)
            self._wake_all()
            while not lost.is_set():
                try:
                    async with asyncio.timeout(10):
                        await lost.wait()
                except TimeoutError:
                    # A half-open connection shows only when it is used.
                    await asyncio.wait_for(connection.execute("SELECT 1"), timeout=5)
        finally:
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        for key in ((channel, ""), (channel, payload)):
            for subscription in self._waiters.get(key, ()):
                subscription.wake()

    def _wake_all(self) -> None:
        for subscriptions in self._waiters.values():
            for subscription in subscriptions:
                subscription.wake()
