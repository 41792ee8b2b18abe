"""Readiness that is earned: each dependency is probed by something real, every two seconds.

gRPC health (`grpc.health.v1`) tells it per service, `/readyz` tells it to orchestrators. Liveness never looks at
dependencies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from grpc_health.v1 import health, health_pb2

from mainspring_svckit.errors import MainspringError
from mainspring_svckit.logs import get_logger

Probe = Callable[[], Awaitable[None]]
PERIOD_S = 2.0
PROBE_TIMEOUT_S = 2.5
log = get_logger(__name__)


class Health:
    """Probes dependencies and tells the result."""

    def __init__(self, probes: Mapping[str, Probe] | None = None) -> None:
        """Takes probes by the dependency's name; a probe raises when a real request would fail."""
        self.servicer: Any = cast("Any", health).aio.HealthServicer()  # Its stubs do not know the module `aio`.
        self._probes = dict(probes or {})
        self._services: list[str] = [""]
        self._failing: dict[str, str] = {"start": "not probed yet"}
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether a request would work now."""
        return not self._failing and not self._stopping

    @property
    def failing(self) -> Mapping[str, str]:
        """Dependencies that fail, with the reason."""
        return self._failing

    def add_service(self, name: str) -> None:
        """Tells the same about one more gRPC service."""
        self._services.append(name)

    def add_probe(self, dependency: str, probe: Probe) -> None:
        """Adds a dependency."""
        self._probes[dependency] = probe

    async def check(self) -> None:
        """Probes everything once."""
        results = await asyncio.gather(*(self._run(probe) for probe in self._probes.values()))
        failing = {name: reason for name, reason in zip(self._probes, results, strict=True) if reason}
        if failing != self._failing:
            log.info("readiness_changed", ready=not failing, failing=failing)
        self._failing = failing
        await self._publish()

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(PERIOD_S)

    async def stop(self) -> None:
        """Says NOT_SERVING for good; a late probe cannot change it."""
        self._stopping = True
        await self.servicer.enter_graceful_shutdown()

    async def _run(self, probe: Probe) -> str:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await probe()
        except TimeoutError:
            return "no answer in time"
        except MainspringError as err:
            return err.reason
        except Exception as err:  # noqa: BLE001 - whatever a probe raises means not ready.
            return type(err).__name__
        return ""

    async def start(self) -> None:
        """Says NOT_SERVING until the first probes; without this gRPC's own default would say SERVING."""
        await self._publish()

    async def _publish(self) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING if self.ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._services:
            await self.servicer.set(name, serving)
