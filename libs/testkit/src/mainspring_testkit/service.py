"""A service as its users meet it: a process of its own, reached by gRPC and events."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc

from mainspring_svckit.auth import LocalIssuer
from mainspring_svckit.grpc_client import Caller, open_channel
from mainspring_testkit.nursery import Nursery, Replica
from mainspring_testkit.proof import SigningKey
from mainspring_testkit.waiting import eventually

_NURSERIES: dict[tuple[str, str], Nursery] = {}
"""One for each module and place of more packages, as long as the tests run."""


class ServiceProcess:
    """One replica of a service."""

    def __init__(self, module: str, folder: Path, env: dict[str, str]) -> None:
        """Takes what to run (`mainspring_registry.main`), a folder of its own, and its environment."""
        self.module, self.folder, self.env = module, folder, env
        self._process: Replica | None = None
        self._channel: grpc.aio.Channel | None = None
        self.ports: dict[str, int] = {}

    @property
    def log(self) -> str:
        """Everything that it has written."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """Process id, for signals."""
        assert self._process is not None
        return self._process.pid

    @property
    def channel(self) -> grpc.aio.Channel:
        """A channel to its gRPC port."""
        if self._channel is None:
            self._channel = open_channel(f"127.0.0.1:{self.ports['grpc']}")
        return self._channel

    async def start(self, *, ready: bool = True, **more_env: str) -> None:
        """Starts it and waits until it is ready (or only until its ports are bound)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ports_file = self.folder / "ports.json"
        ports_file.unlink(missing_ok=True)
        env = {**self.env, "MAINSPRING_PORTS_FILE": str(ports_file), **more_env}
        key = self.module, env.get("PYTHONPATH", "")
        if key not in _NURSERIES:
            _NURSERIES[key] = Nursery(*key)
        self._process = await _NURSERIES[key].fork(env, self.folder / "log")

        async def bound() -> bool:
            assert self._process is not None
            if self._process.returncode is not None:
                raise RuntimeError(f"{self.module} ended with status {self._process.returncode}\n{self.log[-4000:]}")
            return ports_file.exists()

        await eventually(bound, within_s=40, what=f"{self.module} to bind its ports")
        self.ports = json.loads(ports_file.read_text())
        if ready:
            await eventually(self.is_ready, within_s=40, what=f"{self.module} to be ready")

    async def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        return (await self.get("/readyz"))[0] == 200

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a path on the operator's port."""

        def fetch() -> tuple[int, str]:
            try:
                with urlopen(f"http://127.0.0.1:{self.ports['ops']}{path}", timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except HTTPError as err:
                return err.code, err.read().decode()
            except OSError as err:
                return 0, str(err)

        return await asyncio.to_thread(fetch)

    async def kill(self) -> None:
        """Kills it, and whatever it started, with SIGKILL."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._close_channel()

    async def wait(self, timeout_s: float = 30) -> int:
        """Its exit status, once it ends by itself."""
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    async def stop(self) -> int:
        """Stops it with SIGTERM; returns its exit status."""
        await self._close_channel()
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await self.wait()
            except TimeoutError:
                os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()
        assert self._process.returncode is not None
        return self._process.returncode

    async def _close_channel(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None


class Surroundings:
    """What a service needs around it; makes replicas that share a database, a bus and an artifact store."""

    def __init__(self, folder: Path, issuer: LocalIssuer, nats_url: str, artifact_url: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._issuer = folder, issuer
        (folder / "jwks.json").write_text(issuer.jwks())
        self.signing_key = SigningKey(folder)
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "MAINSPRING_NATS_URL": nats_url,
            "MAINSPRING_ARTIFACT_URL": artifact_url,
            "MAINSPRING_AUTH_JWKS": str(folder / "jwks.json"),
            "MAINSPRING_SIGNING_KEY_URL": self.signing_key.url,
            "MAINSPRING_SIGNING_KEYS": str(self.signing_key.public_file),
            "MAINSPRING_SERVICE_TOKEN": issuer.issue("service:test", ["*"], ["service"], 3600),
        }
        self.replicas: list[ServiceProcess] = []

    def replica(self, module: str, database_url: str = "", **settings: Any) -> ServiceProcess:
        """One replica, not started; settings are given by their names (`log_level="debug"`)."""
        env = {**self._env, "MAINSPRING_DATABASE_URL": database_url}
        for key, value in settings.items():
            env[f"MAINSPRING_{key.upper()}"] = value if isinstance(value, str) else json.dumps(value)
        service = ServiceProcess(module, self._folder / f"replica-{len(self.replicas)}", env)
        self.replicas.append(service)
        return service

    def caller(self, *roles: str, project: str = "p") -> Caller:
        """Somebody with roles in a project."""
        return Caller(self._issuer.issue("tester", [project], roles, 3600))

    async def stop(self) -> None:
        """Stops every replica."""
        await asyncio.gather(*(replica.stop() for replica in self.replicas))
