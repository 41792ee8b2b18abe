"""Runs the whole local stack: NATS, Postgres, Triton and the services, each kept running by `Supervised`.

Started by `mainspring up`, detached or in the foreground; stopped by SIGTERM or SIGINT. It tells what it does through
`state.json` and its log only. One supervisor works in a data folder at a time, held by a lock that dies with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from mainspring_client.stack import credentials, leftovers, rights
from mainspring_client.stack.component import Component
from mainspring_client.stack.folder import DataFolder, write_private
from mainspring_client.stack.nats import NatsUser, nats_component, user_url
from mainspring_client.stack.options import Options
from mainspring_client.stack.ports import allocate
from mainspring_client.stack.postgres import ensure_database, postgres_component
from mainspring_client.stack.services import (
    MARK,
    ServiceSpec,
    environment,
    load_table,
    service_component,
    shared_settings,
)
from mainspring_client.stack.state import Phase, ProcessState, StackState
from mainspring_client.stack.supervised import Supervised
from mainspring_eventkit import topology as topology_module
from mainspring_svckit.errors import MainspringError, PreconditionFailed

log = logging.getLogger("mainspring.stack")
INFRASTRUCTURE_PORTS = ("nats", "postgres", "triton-http", "triton-grpc", "triton-metrics")


class Supervisor:
    """One stack in one data folder, from its start to its stop."""

    def __init__(self, folder: DataFolder, options: Options) -> None:
        self._folder, self._options = folder, options
        self._specs = load_table(Path(options.table) if options.table else None)
        self._topology = topology_module.load()
        self._state = StackState()
        self._stop = asyncio.Event()
        self._all: dict[str, Supervised] = {}
        self._passwords = credentials.Passwords("", {}, {})
        self._users: dict[str, NatsUser] = {}
        self._dirty = asyncio.Event()
        self._databases_made = False

    async def run(self) -> int:
        """Starts everything and keeps it running until a signal; returns the exit status.

        Raises:
            PreconditionFailed: STACK_LOCKED, another supervisor works here; or a wanted port is taken.
        """
        self._folder.prepare()
        with _locked(self._folder):
            before = StackState.load(self._folder.state_file)
            await self._clean_up_after(before)
            self._prepare(before)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
            writer = asyncio.create_task(self._write_changes())
            tasks = await self._start()
            try:
                await self._stop.wait()
            finally:
                await self._stop_all(tasks)
                writer.cancel()
                self._save()
        return 0

    async def _clean_up_after(self, before: StackState) -> None:
        found = await asyncio.to_thread(leftovers.end, self._folder, before)
        if found:
            self._notice(f"ended what an earlier supervisor left running: {', '.join(found)}")

    def _prepare(self, before: StackState) -> None:
        folder, specs = self._folder, self._specs
        names = [*INFRASTRUCTURE_PORTS, *(port for spec in specs for port in spec.ports)]
        ports, notices = allocate(names, before.ports, self._options.ports)
        for notice in notices:
            self._notice(notice)
        self._passwords = credentials.passwords(
            folder, [s.database_name for s in specs if s.database], rights.user_names(specs)
        )
        self._users = {user.name: user for user in rights.users(specs, self._topology, self._passwords.bus)}
        issuer = credentials.issuer(folder)
        credentials.ensure_admin_token(folder, issuer)
        credentials.ensure_signing_key(folder)
        write_private(folder.subscriber_url, user_url(self._users[rights.SUBSCRIBER], ports["nats"]) + "\n")
        self._state.claim()
        self._state.phase = Phase.STARTING
        self._state.ports = {**before.ports, **ports}
        self._state.options = asdict(self._options)
        self._state.addresses = _addresses(specs, ports)

        shared = shared_settings(specs, ports)
        self._add("nats", self._make_nats, self._apply_topology)
        self._add("postgres", self._make_postgres, self._make_databases)
        if self._options.triton:
            self._add("triton", self._make_triton)
        for spec in specs:
            secrets = credentials.give(folder, spec.name, issuer, **self._secrets(spec, ports))
            settings = {**shared, **self._own_settings(spec)}
            component = service_component(spec, folder, ports, secrets, settings)
            self._add(spec.name, _always(component))
        self._save()

    def _add(
        self,
        name: str,
        make: Callable[[], Awaitable[Component]],
        when_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        state = self._state.processes[name] = ProcessState(name)
        self._all[name] = Supervised(state, make, self._changed, when_up)

    def _secrets(self, spec: ServiceSpec, ports: dict[str, int]) -> dict[str, str]:
        secrets = {"nats_url": user_url(self._users[spec.name], ports["nats"])}
        if spec.database:
            secrets["database_url"] = self._database_url(spec.database_name, ports)
        for other in spec.lends:
            if other in {s.name for s in self._specs}:
                database = other.replace("-", "_")
                secrets[f"{database}_database_url"] = self._database_url(database, ports)
        return secrets

    def _database_url(self, name: str, ports: dict[str, int]) -> str:
        return f"postgresql://{name}:{self._passwords.databases[name]}@127.0.0.1:{ports['postgres']}/{name}"

    def _own_settings(self, spec: ServiceSpec) -> dict[str, str]:
        settings = dict(self._options.settings.get(spec.name, {}))
        if spec.name == "inference":
            settings.setdefault("cache_dir", str(self._folder.model_cache))  # Triton reads these files too.
        if spec.name == "registry":
            roots = [str(self._folder.models), *self._options.import_roots]
            settings.setdefault("import_roots", json.dumps(roots))
            settings.setdefault("signing_key_url", f"file://{self._folder.signing_key}")
        return settings

    async def _start(self) -> list[asyncio.Task[None]]:
        """Infrastructure first and all at once, then all services at once."""
        tasks: list[asyncio.Task[None]] = []
        services = {spec.name for spec in self._specs}

        def begin(name: str) -> None:
            tasks.append(asyncio.create_task(self._all[name].run(), name=name))

        for name in self._all:
            if name not in services:
                begin(name)
        stop = asyncio.create_task(self._stop.wait())
        bases = asyncio.gather(self._all["nats"].first_ready.wait(), self._all["postgres"].first_ready.wait())
        await asyncio.wait({stop, bases}, return_when=asyncio.FIRST_COMPLETED)
        if not self._stop.is_set():
            for spec in self._specs:
                begin(spec.name)
            self._state.phase = Phase.RUNNING
            self._changed("")
        bases.cancel()
        stop.cancel()
        return tasks

    async def _stop_all(self, tasks: list[asyncio.Task[None]]) -> None:
        """Services, then doors, then what they stand on; each within its own bounds."""
        self._state.phase = Phase.STOPPING
        self._notice("stopping")
        doors = {spec.name for spec in self._specs if spec.door}
        services = {spec.name for spec in self._specs} - doors
        for group in (services, doors, {"triton"}, {"postgres"}, {"nats"}):
            await asyncio.gather(*(self._all[name].stop() for name in group if name in self._all))
        await asyncio.gather(*tasks, return_exceptions=True)
        self._state.phase = Phase.STOPPED
        strays = await asyncio.to_thread(leftovers.end, self._folder, self._state)
        self._notice(f"stopped{'; had to kill ' + ', '.join(strays) if strays else ''}")

    async def _make_nats(self) -> Component:
        port = self._state.ports["nats"]
        made = nats_component(self._folder.component("nats"), port, list(self._users.values()))
        return self._ours(made)

    async def _make_postgres(self) -> Component:
        made = await asyncio.to_thread(
            postgres_component,
            self._folder.component("postgres"),
            self._state.ports["postgres"],
            self._passwords.postgres_admin,
        )
        return self._ours(made)

    async def _make_triton(self) -> Component:
        from mainspring_client.stack.triton import triton_component

        ports = self._state.ports
        made = await asyncio.to_thread(
            triton_component,
            self._folder.component("triton"),
            http_port=ports["triton-http"],
            grpc_port=ports["triton-grpc"],
            metrics_port=ports["triton-metrics"],
            repository=self._folder.repository,
        )
        return self._ours(made)

    def _ours(self, component: Component) -> Component:
        """With our mark and our log."""
        env = {**component.env, MARK: environment(self._folder)[MARK]}
        return replace(component, env=env, log=self._folder.log_of(component.name))

    async def _apply_topology(self) -> None:
        client = Client()
        await client.connect(
            user_url(self._users[rights.ADMIN], self._state.ports["nats"]), allow_reconnect=False, connect_timeout=5
        )
        try:
            await topology_module.apply(client.jetstream(), self._topology)
        finally:
            await client.close()

    async def _make_databases(self) -> None:
        if self._databases_made:
            return
        port, admin = self._state.ports["postgres"], self._passwords.postgres_admin
        await asyncio.gather(
            *(ensure_database(port, admin, name, password) for name, password in self._passwords.databases.items())
        )
        self._databases_made = True

    def _notice(self, text: str) -> None:
        log.info("%s", text)
        self._state.add_notice(text)
        self._dirty.set()

    def _changed(self, notice: str) -> None:
        if notice:
            self._notice(notice)
        self._dirty.set()

    async def _write_changes(self) -> None:
        """Writes the state after changes, several at once where they come together."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._save()
            await asyncio.sleep(0.05)

    def _save(self) -> None:
        self._state.save(self._folder.state_file)


class _locked:  # noqa: N801 - reads like a function.
    """Holds the lock of a data folder; it dies with the process."""

    def __init__(self, folder: DataFolder) -> None:
        self._path = folder.lock_file
        self._descriptor = -1

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(self._descriptor)
            raise PreconditionFailed(
                "STACK_LOCKED", f"another supervisor works in {self._path.parent}; 'mainspring status' tells of it"
            ) from err

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _always(component: Component) -> Callable[[], Awaitable[Component]]:
    async def make() -> Component:
        return component

    return make


def _addresses(specs: tuple[ServiceSpec, ...], ports: dict[str, int]) -> dict[str, Any]:
    doors = {spec.name: f"http://127.0.0.1:{ports[spec.name]}" for spec in specs if spec.door}
    return {
        "gateway": doors.get("gateway", ""),
        "console": doors.get("console", ""),
        "nats": f"nats://127.0.0.1:{ports['nats']}",
        "postgres": f"postgresql://127.0.0.1:{ports['postgres']}",
        "triton": f"127.0.0.1:{ports['triton-grpc']}",
        "triton_http": f"http://127.0.0.1:{ports['triton-http']}",
        "triton_metrics": f"http://127.0.0.1:{ports['triton-metrics']}/metrics",
        "services": {spec.name: doors.get(spec.name, f"127.0.0.1:{ports[spec.name]}") for spec in specs},
        "operators": {spec.name: f"http://127.0.0.1:{ports[f'{spec.name}-ops']}" for spec in specs},
    }


def supervise(folder: DataFolder, options: Options) -> int:
    """Runs a stack in this process until a signal; returns the exit status."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.Formatter.converter = time.gmtime
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(_run(folder, options))
    except MainspringError as err:
        log.error("%s: %s", err.reason, err.message)
        return 3 if err.reason == "STACK_LOCKED" else 1


async def _run(folder: DataFolder, options: Options) -> int:
    return await Supervisor(folder, options).run()


def main() -> None:
    """The detached supervisor: `python -m mainspring_client.stack.supervisor DATA_FOLDER`, options as JSON on stdin."""
    options: dict[str, Any] = json.load(sys.stdin)
    sys.exit(supervise(DataFolder.at(Path(sys.argv[1])), Options(**options)))


if __name__ == "__main__":
    main()
