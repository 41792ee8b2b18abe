"""Long work as leased rows: replicas share it, a dead one's work moves on, a paused one cannot write.

An item is put in the queue in the transaction that makes the resource it works on. A worker claims it with a lease that
it renews while it works. Each claim raises the item's token; every write of a worker goes through
`Lease.transaction()`, which refuses a token that is no longer the newest (a fencing token, faults.md F13). The
database's clock decides about expiry; the worker's own monotonic clock decides when it must assume that it has lost the
lease.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from mainspring_svckit.crash import crash_point
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import ConcurrentChange, MainspringError, Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.logs import get_logger
from mainspring_svckit.telemetry import WORK_ENDED

CHANNEL = "work"
log = get_logger(__name__)


class LeaseLost(ConcurrentChange):
    """Another worker has the item, or it was cancelled; whoever catches this stops without writing."""

    def __init__(self, key: str) -> None:
        super().__init__("LEASE_LOST", f"the lease on {key} is lost", {"key": key})


@dataclass(frozen=True)
class WorkItem:
    """One claimed item.

    Attributes:
        kind: What is to be done; each kind has its own workers.
        key: Name of the resource that is worked on; unique per kind.
        payload: What the worker needs beyond the resource itself.
        attempt: Claims so far, this one included, without those that ended by an orderly stop.
        token: Fencing token of this claim.
    """

    id: str
    kind: str
    key: str
    payload: Mapping[str, Any]
    attempt: int
    token: int


class WorkQueue:
    """Puts work in the queue and takes it out; all methods join the ambient transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enqueue(
        self,
        kind: str,
        key: str,
        payload: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
        delay_s: float = 0,
        coalesce: bool = False,
    ) -> None:
        """Adds an item. An item of that kind and key that is there already is made ready again, as new.

        Args:
            kind: What is to be done.
            key: Name of the resource that is worked on.
            payload: What the worker needs beyond the resource.
            priority: Higher goes first.
            delay_s: Wait before it may be claimed.
            coalesce: Whether a worker that has the item may end what it does, and the item is ready again after that;
                without it the worker loses its lease at once.
        """
        await self._database.connection().execute(
            text(
                "INSERT INTO work (id, kind, key, payload, priority, run_after)"
                " VALUES (:id, :kind, :key, cast(:payload AS jsonb), :priority, now() + make_interval(secs => :delay))"
                " ON CONFLICT (kind, key) DO UPDATE SET state = 'ready', payload = excluded.payload,"
                " priority = excluded.priority, run_after = excluded.run_after, end_time = NULL, last_error = NULL,"
                " again = :coalesce AND work.state = 'ready' AND coalesce(work.lease_expires_at > now(), false),"
                " (attempt, lease_token, lease_expires_at) = (SELECT"
                " CASE WHEN held THEN work.attempt ELSE 0 END,"
                " CASE WHEN held THEN work.lease_token ELSE work.lease_token + 1 END,"
                " CASE WHEN held THEN work.lease_expires_at END"
                " FROM (SELECT :coalesce AND work.state = 'ready'"
                " AND coalesce(work.lease_expires_at > now(), false) AS held) AS lease)"
            ),
            {
                "id": new_id(),
                "kind": kind,
                "key": key,
                "payload": json.dumps(dict(payload or {})),
                "priority": priority,
                "delay": float(delay_s),
                "coalesce": coalesce,
            },
        )
        await self._database.notify(CHANNEL, kind)

    async def enqueue_all(self, kind: str, keys: Sequence[str], *, after: int = 0) -> None:
        """Adds many items that are not there yet, without payload, each behind those before it.

        Args:
            kind: What is to be done.
            keys: Names of the resources that are worked on.
            after: How many were added before for the same purpose. The first items of all purposes go before the
                second ones, so that a few do not wait until very many are done.
        """
        await self._database.connection().execute(
            text(
                "INSERT INTO work (id, kind, key, payload, priority)"
                " SELECT id, :kind, key, '{}', -(:after + place)"
                " FROM unnest(cast(:ids AS uuid[]), cast(:keys AS text[])) WITH ORDINALITY AS item (id, key, place)"
            ),
            {"kind": kind, "ids": [new_id() for _ in keys], "keys": list(keys), "after": after},
        )
        await self._database.notify(CHANNEL, kind)

    async def forget(self, kind: str, keys: Sequence[str]) -> None:
        """Takes many items out and keeps nothing of them; a worker that has one loses its lease."""
        await self._database.connection().execute(
            text("DELETE FROM work WHERE kind = :kind AND key = ANY(cast(:keys AS text[]))"),
            {"kind": kind, "keys": list(keys)},
        )

    async def cancel(self, kind: str, key: str) -> None:
        """Takes an item out; a worker that has it loses its lease."""
        await self._database.connection().execute(
            text(
                "UPDATE work SET state = 'dead', lease_token = lease_token + 1, end_time = now()"
                " WHERE kind = :kind AND key = :key AND state = 'ready'"
            ),
            {"kind": kind, "key": key},
        )
        await self._database.notify(CHANNEL, kind)

    async def open_items(self, kind: str, project: str) -> int:
        """How many items of a project wait or are worked on."""
        found = await self._database.connection().scalar(
            # Keys are resource names, `projects/{project}/...`.
            text(
                "SELECT count(*) FROM work WHERE kind = :kind AND state = 'ready'"
                " AND split_part(key, '/', 2) = :project"
            ),
            {"kind": kind, "project": project},
        )
        return int(found or 0)


class Lease:
    """What a handler holds while it works on an item."""

    def __init__(self, database: Database, item: WorkItem, lease_s: float) -> None:
        self.item = item
        self._database = database
        self._lease_s = lease_s
        self._renewed_at = time.monotonic()
        self.completed = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction that commits only while the lease is ours.

        Raises:
            LeaseLost: Somebody else has the item; nothing was written.
        """
        async with self._database.transaction() as connection:
            held = await connection.scalar(
                text("SELECT 1 FROM work WHERE id = :id AND lease_token = :token AND state = 'ready' FOR UPDATE"),
                {"id": self.item.id, "token": self.item.token},
            )
            if not held:
                raise LeaseLost(self.item.key)
            yield

    @asynccontextmanager
    async def complete(self) -> AsyncIterator[None]:
        """As `transaction`, and the item is done when it commits."""
        async with self.transaction():
            yield
            # An item that the block itself made ready anew has another token by now, and stays ready.
            await self._database.connection().execute(
                text(
                    "UPDATE work SET state = CASE WHEN again THEN 'ready' ELSE 'done' END, again = false, attempt = 0,"
                    " end_time = now(), last_error = NULL, lease_expires_at = NULL"
                    " WHERE id = :id AND lease_token = :token"
                ),
                {"id": self.item.id, "token": self.item.token},
            )
        self.completed = True

    async def renew(self) -> None:
        """Puts the expiry off.

        Raises:
            LeaseLost: Somebody else has the item.
        """
        async with self._database.transaction() as connection:
            result = await connection.execute(
                text(
                    "UPDATE work SET lease_expires_at = now() + make_interval(secs => :lease)"
                    " WHERE id = :id AND lease_token = :token AND state = 'ready'"
                ),
                {"id": self.item.id, "token": self.item.token, "lease": self._lease_s},
            )
        if result.rowcount == 0:
            raise LeaseLost(self.item.key)
        self._renewed_at = time.monotonic()

    async def keep(self) -> None:
        """Renews until cancelled.

        Raises:
            LeaseLost: Somebody else has the item, or we could not renew in time and must assume so.
        """
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self.renew()
            except LeaseLost:
                if self.completed:
                    return
                raise
            except MainspringError:
                if time.monotonic() - self._renewed_at > self._lease_s:
                    raise LeaseLost(self.item.key) from None


Handler = Callable[[Lease], Awaitable[None]]
ExhaustedHandler = Callable[[Lease, Exception], Awaitable[None]]
Room = Callable[[], Awaitable[None]]


async def no_bound() -> None:
    """There is always room for one more item."""


class Worker:
    """Claims items of one kind and hands them to a handler."""

    def __init__(
        self,
        database: Database,
        listener: Listener,
        kind: str,
        handler: Handler,
        *,
        on_exhausted: ExhaustedHandler,
        concurrency: int = 1,
        lease_s: float = 30.0,
        max_attempts: int = 5,
        poll_s: float = 5.0,
        max_per_project: int = 0,
        room: Room = no_bound,
        retries_first: bool = False,
        owner: str | None = None,
    ) -> None:
        """Takes how to work.

        Args:
            database: Where the queue is.
            listener: Wakes idle workers.
            kind: Items to claim.
            handler: Does the work and ends with `async with lease.complete()`. What it raises is tried again later.
            on_exhausted: Called with the last error, inside `lease.complete()`, when no attempt is left or the error
                says that none can help (an error of our tree other than `Unavailable` and `ConcurrentChange`).
            concurrency: Items at a time.
            lease_s: A worker that is silent for so long has lost its item.
            max_attempts: Claims before an item is given up.
            poll_s: Longest time before an item that became due by time or expiry is seen.
            max_per_project: Items of one project that all replicas together work on at a time; 0 for no limit. Keys
                must be resource names.
            room: Returns when there is room for one more item; awaited once for each that the handler gets, before it
                is claimed.
            retries_first: Whether an item that is tried again goes before those that were never tried, once its wait
                is over, and so comes to its last attempt before the others come to theirs.
            owner: Who holds a lease, for people who look.
        """
        self._database, self._listener, self._kind, self._handler = database, listener, kind, handler
        self._on_exhausted, self._concurrency, self._lease_s = on_exhausted, concurrency, lease_s
        self._max_attempts, self._poll_s, self._owner = max_attempts, poll_s, owner or new_id()
        self._max_per_project, self._room, self._retries_first = max_per_project, room, retries_first

    async def run(self) -> None:
        """Works until cancelled; then gives back what it holds, so that another replica goes on at once."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._loop())

    async def _loop(self) -> None:
        with self._listener.subscribe(CHANNEL, self._kind) as wakeups:
            while True:
                await self._room()
                while (item := await self._claim_now()) is None:
                    await wakeups.wait(self._poll_s)
                await self._work(item)

    async def _claim_now(self) -> WorkItem | None:
        try:
            return await self._claim()
        except MainspringError as err:
            log.warning("claim_failed", kind=self._kind, reason=err.reason)
            return None

    async def _claim(self) -> WorkItem | None:
        async with self._database.transaction() as connection:
            if self._max_per_project:
                # One claim at a time, so that two cannot both take the last place of a project.
                lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))")
                await connection.execute(lock, {"lock": f"work\n{self._kind}"})
            row = (
                await connection.execute(
                    text(
                        "UPDATE work SET lease_owner = :owner, lease_token = lease_token + 1, attempt = attempt + 1,"
                        " lease_expires_at = now() + make_interval(secs => :lease)"
                        " WHERE id = (SELECT id FROM work WHERE kind = :kind AND state = 'ready' AND run_after <= now()"
                        " AND (lease_expires_at IS NULL OR lease_expires_at < now())"
                        " AND (:most = 0 OR split_part(key, '/', 2) NOT IN (SELECT split_part(key, '/', 2) FROM work"
                        " WHERE kind = :kind AND state = 'ready' AND lease_expires_at >= now()"
                        " GROUP BY 1 HAVING count(*) >= :most))"
                        " ORDER BY priority DESC, run_after LIMIT 1 FOR UPDATE SKIP LOCKED)"
                        " RETURNING id, key, payload, attempt, lease_token"
                    ),
                    {
                        "owner": self._owner,
                        "lease": self._lease_s,
                        "kind": self._kind,
                        "most": self._max_per_project,
                    },
                )
            ).one_or_none()
        if row is None:
            return None
        return WorkItem(str(row.id), self._kind, row.key, row.payload, row.attempt, row.lease_token)

    async def _work(self, item: WorkItem) -> None:
        lease = Lease(self._database, item, self._lease_s)
        log.info("work_claimed", kind=item.kind, key=item.key, attempt=item.attempt)
        crash_point(f"{self._kind}:after-claim")
        try:
            await self._handle(lease)
        except LeaseLost:
            log.info("lease_lost", kind=item.kind, key=item.key)
            WORK_ENDED.labels(item.kind, "lost").inc()
        except asyncio.CancelledError:
            with suppress(MainspringError):
                await asyncio.shield(self._give_back(item))
            raise
        except Exception as err:  # noqa: BLE001 - whatever the handler raised decides about a retry.
            await self._failed(lease, err)
        else:
            WORK_ENDED.labels(item.kind, "done").inc()

    async def _handle(self, lease: Lease) -> None:
        """Runs the handler beside the renewal; the one that ends first ends the other."""
        handler = asyncio.ensure_future(self._handler(lease))
        keeper = asyncio.ensure_future(lease.keep())
        try:
            await asyncio.wait({handler, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                await keeper  # Raises when the lease is lost; returns when the handler has completed the item.
            await handler
        finally:
            for task in (handler, keeper):
                task.cancel()
            await asyncio.gather(handler, keeper, return_exceptions=True)

    async def _failed(self, lease: Lease, err: Exception) -> None:
        item = lease.item
        hopeless = isinstance(err, MainspringError) and not isinstance(err, Unavailable | ConcurrentChange)
        give_up = hopeless or item.attempt >= self._max_attempts
        log.warning(
            "work_failed",
            kind=item.kind,
            key=item.key,
            attempt=item.attempt,
            gives_up=give_up,
            exc_info=not hopeless,
            error=str(err),
        )
        WORK_ENDED.labels(item.kind, "failed" if give_up else "retried").inc()
        try:
            if give_up:
                async with lease.complete():
                    await self._on_exhausted(lease, err)
            else:
                await self._retry_later(item, str(err), min(60.0, 0.5 * 2**item.attempt))
        except MainspringError as again:
            log.warning("work_not_settled", kind=item.kind, key=item.key, reason=again.reason)

    async def _retry_later(self, item: WorkItem, error: str, delay_s: float) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(
                text(
                    "UPDATE work SET lease_expires_at = NULL, last_error = :error,"
                    " run_after = now() + make_interval(secs => :delay),"
                    " priority = CASE WHEN :first THEN greatest(priority, 0) + 1 ELSE priority END"
                    " WHERE id = :id AND lease_token = :token AND state = 'ready'"
                ),
                {
                    "id": item.id,
                    "token": item.token,
                    "error": error[:2000],
                    "delay": delay_s,
                    "first": self._retries_first,
                },
            )

    async def _give_back(self, item: WorkItem) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(
                text(
                    "UPDATE work SET lease_expires_at = NULL, attempt = attempt - 1"
                    " WHERE id = :id AND lease_token = :token AND state = 'ready'"
                ),
                {"id": item.id, "token": item.token},
            )
            await self._database.notify(CHANNEL, item.kind)
