"""Use case of drawing turns of the loop."""

from __future__ import annotations

from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.cycles import Cycle, CycleStep
from mainspring_svckit.names import CycleName


class Cycles:
    """Keeps what happened in each turn."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def record(self, project: str, cycle: str, step: CycleStep) -> None:
        """Adds a step to a turn; events outside any turn are passed over."""
        if not cycle:
            return
        name = str(CycleName(project, cycle))
        async with self._ports.transactions.transaction():
            found = await self._ports.cycles.get(name, lock=True)
            turn = found.value if found is not None else Cycle(name, ())
            await self._ports.cycles.put(turn.with_step(step))
