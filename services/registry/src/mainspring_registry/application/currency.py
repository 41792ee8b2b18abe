"""Whether the database is as new as what the bus has heard: only then numbers may be given out (faults.md F22)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from mainspring_registry.application.ports import Memory
from mainspring_registry.domain.reconciling import Heard
from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_svckit.ports import Transactions


class Currency:
    """`Numbers` that stand still while the bus knows more than the database."""

    def __init__(self, transactions: Transactions, memory: Memory) -> None:
        self._transactions, self._memory = transactions, memory
        self._unknown: Heard | None = None
        self._current = asyncio.Event()

    async def check(self) -> None:
        """Looks behind the newest event that the outbox knows; one question in the usual case.

        Raises:
            Unavailable: The bus or the database does not answer; what was known before still holds.
        """
        async with self._transactions.transaction():
            async for heard in self._memory.unknown(whole=False):
                self._unknown = heard
                self._current.clear()
                return
        self._unknown = None
        self._current.set()

    async def verify(self) -> bool:
        """Looks, and says whether the database is current; by what was known before when it cannot be seen now.

        The relay asks before each batch and every few seconds: what an older copy publishes would move the place behind
        which is looked, and a copy may be restored, or reconciled, under a running service.
        """
        with suppress(Unavailable):
            await self.check()
        return self._current.is_set()

    async def settled(self) -> None:
        """Returns when the database is known to be current; what reacts to events waits for it."""
        await self._current.wait()

    async def probe(self) -> None:
        """Raises DATABASE_IS_OLDER_THAN_THE_BUS while it is."""
        if self._unknown is not None:
            raise _older(self._unknown)

    async def require_current(self) -> None:
        if not self._current.is_set():
            if self._unknown is None:
                await self.check()
            await self.probe()


def _older(heard: Heard) -> PreconditionFailed:
    name = heard.fact.name or heard.fact.model
    message = (
        f"the bus has heard of {name}, of which this database knows nothing: it is an older copy, and would give out"
        " numbers a second time; run 'mainspring-registry reconcile' to see what is missing and 'mainspring-registry"
        " reconcile --repair' to put it back"
    )
    return PreconditionFailed("DATABASE_IS_OLDER_THAN_THE_BUS", message, {"name": name, "eventId": heard.event_id})
