"""Makes what docker-compose.yml reads from files: passwords, tokens, NATS users with their rights, Postgres roles.

usage: python deploy/docker/prepare.py [FOLDER]      (default: data/compose)

What is there stays: running it again makes nothing but what is missing. The folder is readable to its owner only; the
files in it are readable to all, since containers run as another user and get them mounted one by one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mainspring_client.stack import credentials, rights
from mainspring_client.stack.folder import DataFolder
from mainspring_client.stack.nats import NatsUser, nats_component, user_url
from mainspring_client.stack.services import SERVICES
from mainspring_eventkit import topology

ROOT = Path(__file__).resolve().parents[2]
NATS_PORT = 4222
LOOPBACK = "127.0.0.1"


def prepare(root: Path) -> None:
    """Makes everything below `root`."""
    folder = DataFolder.at(root)
    folder.prepare()
    declared = topology.load()
    databases = [spec.database_name for spec in SERVICES if spec.database]
    passwords = credentials.passwords(folder, databases, rights.user_names(SERVICES))
    issuer = credentials.issuer(folder)
    credentials.ensure_admin_token(folder, issuer)
    credentials.ensure_signing_key(folder)
    users = {user.name: user for user in rights.users(SERVICES, declared, passwords.bus)}
    given = folder.secrets
    for spec in SERVICES:
        values = {"nats_url": user_url(users[spec.name], NATS_PORT).replace(LOOPBACK, "nats")}
        names = [spec.database_name] if spec.database else list(spec.lends)
        for name in names:
            setting = "database_url" if spec.database else f"{name}_database_url"
            values[setting] = f"postgresql://{name}:{passwords.databases[name]}@postgres:5432/{name}"
        # Another issue of the same token would change the file that a running container has mounted.
        if not all((given / spec.name / key).exists() for key in (*values, "service_token")):
            credentials.give(folder, spec.name, issuer, **values)
    _write(given / "bus_admin_url", user_url(users[rights.ADMIN], NATS_PORT).replace(LOOPBACK, "nats"))
    _write(folder.subscriber_url, user_url(users[rights.SUBSCRIBER], NATS_PORT))
    _write(given / "postgres_admin", passwords.postgres_admin)
    _write(given / "postgres_init.sql", _roles(passwords.databases))
    _bus_configuration(folder.component("nats"), list(users.values()))
    bus = folder.component("nats")
    bus.chmod(0o700)
    mounted = [path for path in given.rglob("*") if path.name != "passwords.json"]
    for path in (bus / "nats.conf", folder.jwks, folder.signing_keys, *mounted):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _bus_configuration(folder: Path, users: list[NatsUser]) -> None:
    """The local stack's, with the folder of the container; where to listen is an option of the container's command,
    which the server takes from there, while it refuses a folder that is named twice.
    """
    nats_component(folder, NATS_PORT, users)
    config = folder / "nats.conf"
    config.write_text(config.read_text().replace(f'"{folder / "jetstream"}"', '"/data/jetstream"'))


def _roles(databases: dict[str, str]) -> str:
    """SQL for an empty server: a role and a database for each service, and nothing of the others'."""
    lines: list[str] = []
    for name, password in databases.items():
        lines += [
            f"CREATE ROLE {name} LOGIN PASSWORD '{password}';",
            f"CREATE DATABASE {name} OWNER {name} ENCODING 'UTF8' TEMPLATE template0;",
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;",
            f"\\connect {name}",
            "CREATE EXTENSION IF NOT EXISTS vector;",
        ]
    return "\n".join([*lines, ""])


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "data" / "compose"
    prepare(chosen)
    sys.stdout.write(f"{chosen} is ready; the first person's token is in {chosen / 'admin-token'}\n")
