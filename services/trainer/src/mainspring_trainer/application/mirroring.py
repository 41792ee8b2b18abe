"""The use case of showing runs in an experiment tracker beside ours.

What is to be mirrored waits in the queue of work like everything else: a tracker that is away costs retries, never a
run a moment, and what it missed is sent when it is back. Postgres stays the truth; nothing is read from a tracker.
"""

from __future__ import annotations

from dataclasses import replace

from mainspring_svckit.pagination import Page
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_trainer.application.ports import Exporter, Mirrored, Ports, Tracker
from mainspring_trainer.domain.runs import RUN_STATES, TrainingMetric, metric_key

BATCH = 300
"""Metrics in one message to a tracker."""


async def metrics_after(ports: Ports, name: str, step: int) -> list[TrainingMetric]:
    """The next metrics of a run after a step, at most a batch; none at the end."""
    async with ports.transactions.transaction():
        listed = await ports.metrics.list(name, Page(BATCH, metric_key(step)))
    return [item.value for item in listed.items]


class Exporting:
    """Gives a run to a tracker that takes whole runs, when it has ended."""

    def __init__(self, ports: Ports, exporter: Exporter) -> None:
        self._ports, self._exporter = ports, exporter

    async def advance(self, name: str, lease: Claim) -> None:
        """Gives the run, if it has ended.

        Raises:
            Unavailable: The tracker cannot take it now; another try may help.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            run = (await require(ports.runs, "TrainingRun", name)).value
        if RUN_STATES.ended(run.state):
            metrics: list[TrainingMetric] = []
            while some := await metrics_after(ports, name, metrics[-1].step if metrics else -1):
                metrics += some
            await self._exporter.write(run, metrics)
        async with lease.complete():
            pass


class Mirroring:
    """Takes a run's mirror as far as the run is."""

    def __init__(self, ports: Ports, tracker: Tracker) -> None:
        self._ports, self._tracker = ports, tracker

    async def advance(self, name: str, lease: Claim) -> None:
        """Sends what is new of a run.

        Raises:
            Unavailable: The tracker is away; another try may help.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            run = (await require(ports.runs, "TrainingRun", name)).value
            found = await ports.mirrored.get(name)
        mirrored = found.value if found is not None else Mirrored(name)
        if not mirrored.remote_id:
            mirrored = await self._kept(replace(mirrored, remote_id=await self._tracker.begin(run)), lease)
        while metrics := await self._metrics_after(name, mirrored.step):
            await self._tracker.add(mirrored.remote_id, metrics)
            mirrored = await self._kept(replace(mirrored, step=metrics[-1].step), lease)
        if RUN_STATES.ended(run.state) and not mirrored.ended:
            await self._tracker.end(mirrored.remote_id, run)
            mirrored = replace(mirrored, ended=True)
        async with lease.complete():
            await ports.mirrored.put(mirrored)

    async def _metrics_after(self, name: str, step: int) -> list[TrainingMetric]:
        return await metrics_after(self._ports, name, step)

    async def _kept(self, mirrored: Mirrored, lease: Claim) -> Mirrored:
        async with lease.transaction():
            await self._ports.mirrored.put(mirrored)
        return mirrored
