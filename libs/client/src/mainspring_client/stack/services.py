"""The services of the local stack: one table, and how each row becomes a process."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mainspring_client.stack.component import Component
from mainspring_client.stack.folder import DataFolder
from mainspring_svckit.errors import InvalidInput

MARK = "MAINSPRING_STACK"
"""Environment variable that every process of a stack carries, with the stack's data folder as its value."""

_OF_HUGGING_FACE = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN")
_PASSED_ON = (
    "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "MAINSPRING_LOG_LEVEL",
    "MAINSPRING_OTLP_ENDPOINT", *_OF_HUGGING_FACE,
)  # fmt: skip


@dataclass(frozen=True)
class ServiceSpec:
    """One row of the table.

    Attributes:
        name: The service's name; its NATS user, its folders and its ports are called so.
        package: Import package; the service is started when it is installed.
        area: Area of the events that it publishes, `registry` for `mainspring.registry.*`; empty for none.
        routing: What it may do with the routing tables: nothing, `read`, or `write`.
        database: Whether it has a database of its own.
        door: Whether it is an HTTP door for people, stopped after the others.
        lends: Databases of other services that it is given too, as setting `<name>_database_url`.
        address_setting: The setting in which the others get its address; default `<name>_address`.
        command: What to run instead of `python -m <package>.main`.
    """

    name: str
    package: str = ""
    area: str = ""
    routing: str = ""
    database: bool = True
    door: bool = False
    lends: tuple[str, ...] = ()
    address_setting: str = ""
    command: tuple[str, ...] = field(default=())

    @property
    def installed(self) -> bool:
        """Whether it can be started here."""
        return bool(self.command) or importlib.util.find_spec(self.package) is not None

    @property
    def database_name(self) -> str:
        """Name of its database and of the role that owns it."""
        return self.name.replace("-", "_")

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of its ports: the one that others call, and the operator's."""
        return (self.name, f"{self.name}-ops")


SERVICES: tuple[ServiceSpec, ...] = (
    ServiceSpec("data-ingest", "mainspring_data_ingest", area="data"),
    ServiceSpec("trainer", "mainspring_trainer", area="training", address_setting="training_address"),
    ServiceSpec("evaluator", "mainspring_evaluator", area="evaluation", address_setting="evaluation_address"),
    ServiceSpec("registry", "mainspring_registry", area="registry"),
    ServiceSpec("embedder", "mainspring_embedder", area="embedding", routing="read"),
    ServiceSpec("inference", "mainspring_inference", area="inference", routing="write"),
    ServiceSpec("feedback", "mainspring_feedback", area="feedback"),
    # The gateway records answers in inference's outbox, whose relay publishes them.
    ServiceSpec("gateway", "mainspring_gateway", routing="read", database=False, door=True, lends=("inference",)),
    ServiceSpec("console", "mainspring_console", database=False, door=True),
)


def load_table(path: Path | None) -> tuple[ServiceSpec, ...]:
    """The table of installed services; from a JSON file with a list of rows when one is given.

    Raises:
        InvalidInput: The file is no such list.
    """
    if path is None:
        return tuple(spec for spec in SERVICES if spec.installed)
    known = {f.name for f in fields(ServiceSpec)}
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        if unknown := {key for row in rows for key in row} - known:
            raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
        for row in rows:
            row.update({key: tuple(row[key]) for key in ("lends", "command") if key in row})
        return tuple(ServiceSpec(**row) for row in rows)
    except (OSError, ValueError, TypeError, AttributeError) as err:
        raise InvalidInput(f"{path} is not a table of services: {err}", reason="SERVICE_TABLE_INVALID") from err


@dataclass
class Readyz:
    """Asks a service's operator port whether it is ready, and remembers what it said is missing."""

    port: int
    detail: str = ""

    async def __call__(self) -> bool:
        """Whether `/readyz` says 200."""
        try:
            async with asyncio.timeout(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                    answer = await reader.read(1 << 16)
                    while not reader.at_eof():
                        answer += await reader.read(1 << 16)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as err:
            self.detail = f"does not answer on its operator port ({type(err).__name__})"
            return False
        head, _, body = answer.partition(b"\r\n\r\n")
        ready = head.split(b" ", 2)[1:2] == [b"200"]
        self.detail = "" if ready else _failing(body)
        return ready


def service_component(
    spec: ServiceSpec,
    folder: DataFolder,
    ports: Mapping[str, int],
    secrets: Mapping[str, str],
    settings: Mapping[str, str],
) -> Component:
    """How to run one service.

    Args:
        spec: Its row.
        folder: The stack's data folder.
        ports: All ports by name.
        secrets: Environment variables that name files with its secrets.
        settings: Settings that are not the same for every service, by name.
    """
    own = folder.component("services") / spec.name
    scratch = own / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    port, ops_port = (ports[name] for name in spec.ports)
    values = {
        "grpc_port": "0" if spec.door else str(port),
        "http_port": str(port) if spec.door else "0",
        "ops_port": str(ops_port),
        "ports_file": str(own / "ports.json"),
        "artifact_url": f"file://{folder.artifacts}",
        "auth_jwks": str(folder.jwks),
        "signing_keys": str(folder.signing_keys),
        "migrate_on_start": "true",
        "model_repository": str(folder.repository),
        "cache_dir": str(own / "cache"),
        "scratch_dir": str(scratch),
        **settings,
    }
    env = {f"MAINSPRING_{key.upper()}": value for key, value in values.items()}
    # -P: what lies in the working folder must not be imported by chance.
    command = spec.command or (sys.executable, "-P", "-m", f"{spec.package}.main")
    return Component(
        name=spec.name,
        command=command,
        env={**environment(folder), **env, **secrets},
        log=folder.log_of(spec.name),
        ready=Readyz(ops_port),
        cwd=own,
        # The trainer asks its run for a last checkpoint first, which may take 18 seconds.
        stop_timeout_s=30.0,
    )


def shared_settings(specs: Sequence[ServiceSpec], ports: Mapping[str, int]) -> dict[str, str]:
    """Settings that every service gets: where the others are, and the interpreters for child processes."""
    addresses = {
        spec.address_setting or f"{spec.database_name}_address": f"127.0.0.1:{ports[spec.name]}"
        for spec in specs
        if not spec.door
    }
    training = Path(sys.prefix).parent / ".venv-train" / "bin" / "python"
    python = str(training if training.exists() else sys.executable)
    return {
        **addresses,
        "triton_url": f"127.0.0.1:{ports['triton-grpc']}",
        "modelfiles_python": python,
        "worker_python": python,
    }


def environment(folder: DataFolder) -> dict[str, str]:
    """What every process of the stack finds in its environment."""
    kept = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # Unbuffered, so that the last words of a process that is killed stand in its log.
    return {"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **kept, "PATH": path, MARK: str(folder.root)}


def _failing(body: bytes) -> str:
    try:
        failing: dict[str, str] = json.loads(body)["failing"]
        return ", ".join(f"{name}: {reason}" for name, reason in failing.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return "says that it is not ready"
