"""A service's process: what starts in which order, and stops in the reverse.

Start: settings, telemetry, database (schema checked), bus, handlers, relay, consumers and workers, gRPC, readiness. On
SIGTERM or SIGINT: say NOT_SERVING, wait `drain_delay_s`, stop taking work and calls together, let what is in flight end
within `stop_grace_s`, flush, close, exit 0. A second signal exits at once. A background task that ends unexpectedly
takes the process down instead of leaving it half alive.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import uvloop

from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.database import Database, Listener
from mainspring_svckit.grpc_client import Caller, open_channel
from mainspring_svckit.grpc_server import GrpcServer
from mainspring_svckit.health import Health
from mainspring_svckit.logs import configure_logging, get_logger
from mainspring_svckit.migrations import check, migrate
from mainspring_svckit.ops import OpsServer
from mainspring_svckit.scratch import Scratch
from mainspring_svckit.settings import ServiceSettings
from mainspring_svckit.telemetry import configure_tracing

log = get_logger(__name__)


class Process:
    """Everything that lives as long as the service; used in `main.py` only."""

    def __init__(self, name: str, settings: ServiceSettings) -> None:
        """Sets up logging and tracing at once; everything else inside `async with`."""
        configure_logging(name, settings.log_level)
        configure_tracing(name, settings.otlp_endpoint)
        self.name, self.settings = name, settings
        self.health = Health()
        self.caller = Caller(settings.service_token.get_secret_value())
        self._stack = AsyncExitStack()
        self._intake: list[asyncio.Task[None]] = []
        self._support: list[asyncio.Task[None]] = []
        self._flushes: list[Callable[[], Awaitable[None]]] = []
        self._server: GrpcServer | None = None
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def on_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Calls `close` at the end, after everything that was registered later."""
        self._stack.push_async_callback(close)

    def intake(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Runs something that takes work (a consumer, a worker); it is cancelled first when stopping."""
        self._intake.append(asyncio.create_task(coroutine, name=name))

    def support(
        self, coroutine: Coroutine[Any, Any, None], name: str, flush: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Runs something that the intake needs (a listener, the relay); it is cancelled last, and `flush` is called
        before.
        """
        self._support.append(asyncio.create_task(coroutine, name=name))
        if flush is not None:
            self._flushes.append(flush)

    async def database(self, package: str, **options: Any) -> Database:
        """Opens the service's database, at the revision that `package` needs."""
        url = self.settings.database_url.get_secret_value()
        if self.settings.migrate_on_start:
            await migrate(url, package)
        else:
            await check(url, package)
        database = Database(url, service=self.name, **options)
        self.on_close(database.close)
        self.health.add_probe("database", database.ping)
        return database

    def listener(self, *channels: str) -> Listener:
        """Hears the database's notifications on `channels`."""
        listener = Listener(self.settings.database_url.get_secret_value(), channels)
        self.support(listener.run(), "listener")
        return listener

    def scratch(self, root: Path | None) -> Path:
        """A folder of this process alone below `root` (None: the system's folder of temporary files), removed at the
        end. What killed processes of this service left there is removed now.
        """
        scratch = Scratch(self.name, root)
        scratch.sweep()
        return self._stack.enter_context(scratch.folder())

    def channel(self, address: str) -> grpc.aio.Channel:
        """A channel to another service, closed at the end."""
        channel = open_channel(address)
        self.on_close(channel.close)
        return channel

    def grpc_server(self, database: Database | None) -> GrpcServer:
        """The service's gRPC server; `run` starts it."""
        settings = self.settings
        self._server = GrpcServer(
            verifier=self.verifier(),
            health=self.health,
            database=database,
            default_deadline_s=settings.default_deadline_s,
            with_reflection=settings.reflection,
        )
        return self._server

    def verifier(self) -> TokenVerifier:
        """Verifies callers' tokens.

        Raises:
            ValueError: The setting is missing; without keys nobody could ever be let in.
        """
        if self.settings.auth_jwks is None:
            raise ValueError("set MAINSPRING_AUTH_JWKS to the file with the public keys of the token issuer")
        return TokenVerifier.from_file(self.settings.auth_jwks, self.settings.auth_issuer)

    async def run(self, extra_ports: dict[str, int] | None = None) -> int:
        """Serves until a signal or a failure; returns the exit status.

        Args:
            extra_ports: Ports that the service bound itself, to be written beside ours.
        """
        settings = self.settings
        ops = OpsServer(self.health, settings.grpc_host, settings.ops_port)
        self._stack.callback(ops.close)
        ports = {"ops": ops.port, **(extra_ports or {})}
        if self._server is not None:
            ports["grpc"] = await self._server.start(settings.grpc_host, settings.grpc_port)
        prober = asyncio.create_task(self.health.run(), name="health")
        if settings.ports_file is not None:
            _write_whole(settings.ports_file, json.dumps(ports))
        log.info("service_started", **{f"{key}_port": port for key, port in ports.items()})
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        watched: set[asyncio.Task[Any]] = {stop, prober, *self._intake, *self._support}
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        status = 0
        for task in done - {stop}:
            status = 1
            error = task.exception() if not task.cancelled() else None
            log.error("background_task_ended", task=task.get_name(), exc_info=error)
        await self._shut_down(prober)
        log.info("service_stopped", status=status)
        return status

    async def _shut_down(self, prober: asyncio.Task[None]) -> None:
        settings = self.settings
        log.info("service_stopping", grace_s=settings.stop_grace_s)
        prober.cancel()
        await self.health.stop()
        await asyncio.sleep(settings.drain_delay_s)
        stopping = [_cancel_all(self._intake, settings.stop_grace_s)]
        if self._server is not None:
            stopping.append(self._server.stop(settings.stop_grace_s))
        await asyncio.gather(*stopping)
        for flush in self._flushes:
            try:
                async with asyncio.timeout(5):
                    await flush()
            except Exception as err:  # noqa: BLE001 - what is not flushed now is published at the next start.
                log.warning("flush_failed", error=type(err).__name__)
        await _cancel_all(self._support, 5)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            os._exit(1)
        self._stop.set()


async def _cancel_all(tasks: list[asyncio.Task[None]], grace_s: float) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=grace_s)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.rename(path)


def run_main(
    name: str,
    package: str,
    settings_type: type[ServiceSettings],
    serve: Callable[[Process, Any], Awaitable[int]],
    jobs: Mapping[str, Callable[[Any], Coroutine[Any, Any, int]]] | None = None,
) -> None:
    """The command of a service: `serve` (the default), `migrate`, or a job of its own.

    Args:
        name: The service's name, `registry`.
        package: Its import package, `mainspring_registry`.
        settings_type: Its settings class.
        serve: Wires the service and returns `await process.run()`.
        jobs: What else it does, by the words on the command line; each returns the exit status.
    """
    settings, jobs = settings_type.load(), jobs or {}
    match sys.argv[1:]:
        case ["migrate"]:
            uvloop.run(migrate(settings.database_url.get_secret_value(), package))
            return
        case [] | ["serve"]:
            pass
        case words if (job := jobs.get(" ".join(words))) is not None:
            sys.exit(uvloop.run(job(settings)))
        case _:
            sys.exit(f"usage: mainspring-{name} [{' | '.join(['serve', 'migrate', *jobs])}]")

    async def main() -> int:
        async with Process(name, settings) as process:
            return await serve(process, settings)

    sys.exit(uvloop.run(main()))
