"""What people want of runs that this trainer has, seen as soon as they have said so."""

from __future__ import annotations

from mainspring_svckit.database import Database, Listener
from mainspring_svckit.errors import MainspringError
from mainspring_svckit.logs import get_logger
from mainspring_svckit.repository import Repository
from mainspring_trainer.application.runs import WISHES
from mainspring_trainer.domain.runs import TrainingRun

POLL_S = 5.0
log = get_logger(__name__)


class StoredWishes:
    """`Wishes` in the rows of runs."""

    def __init__(self, database: Database, listener: Listener, runs: Repository[TrainingRun]) -> None:
        self._database, self._listener, self._runs = database, listener, runs

    async def pause(self, name: str) -> None:
        with self._listener.subscribe(WISHES, name) as wakeups:
            while not await self._wanted(name):
                await wakeups.wait(POLL_S)

    async def _wanted(self, name: str) -> bool:
        try:
            async with self._database.transaction():
                found = await self._runs.get(name)
        except MainspringError as err:
            log.warning("wish_not_read", run=name, reason=err.reason)
            return False
        return found is not None and found.value.pause_requested
