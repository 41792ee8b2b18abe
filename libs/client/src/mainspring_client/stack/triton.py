"""Triton of the local stack: the real server, from the wheel `nvidia-pytriton`, in the environment of the engine.

What differs from the official image, all found by trying: the wheel's backend comes without its stub process, the stub
finds packages only through the first `python3` on PATH, and it needs the shared library of its Python.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from mainspring_client.stack.component import Component, ComponentFailed

ENVIRONMENT = ".venv-triton"
# Tenants never reach Triton, and neither do these calls: nobody knows the header that would open them.
_CLOSED = "shared-memory,trace,logging"
_CLOSED_OVER_HTTP = f"{_CLOSED},model-repository"
# Time for requests in flight. A stub that died makes Triton wait in vain, so it must end well before `stop` kills.
_EXIT_TIMEOUT_S = 5


def default_environment() -> Path:
    """The engine's environment: beside ours, where `make setup` puts it."""
    return Path(sys.prefix).parent / ENVIRONMENT


def triton_component(
    folder: Path,
    *,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    repository: Path,
    python_env: Path | None = None,
    name: str = "triton",
) -> Component:
    """Prepares `folder` and says how to run the server; models are loaded and unloaded by calls only.

    Args:
        folder: The server's own; holds the backend and the log.
        http_port: Port of health and metadata over HTTP, on loopback.
        grpc_port: Port of everything, on loopback.
        metrics_port: Port of `/metrics`, on loopback.
        repository: Folder with the models' folders; made when missing.
        python_env: Environment with Triton's files and the engine; None for `default_environment()`.
        name: For people and for the log file.

    Raises:
        ComponentFailed: The environment is missing or incomplete; the message says what makes it.
    """
    environment = python_env or default_environment()
    server = _server_files(environment)
    repository.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    remove_shared_memory(folder)
    options = {
        "model-repository": repository,
        "backend-directory": _backends(server, folder),
        "cache-directory": server / "caches",
        "model-control-mode": "explicit",
        # Otherwise the server is not ready from the first model on that it could not load, although all others answer.
        "strict-readiness": "false",
        "pinned-memory-pool-byte-size": 0,
        "exit-timeout-secs": _EXIT_TIMEOUT_S,
        "http-address": "127.0.0.1",
        "http-port": http_port,
        "grpc-address": "127.0.0.1",
        "grpc-port": grpc_port,
        # Server 2.51 keeps used requests for reuse. One that was cancelled just as it ended would hold its model in
        # memory for good, and unloading it would never end; without the pool it was never seen.
        "grpc-infer-allocation-pool-size": 0,
        "metrics-address": "127.0.0.1",
        "metrics-port": metrics_port,
        "metrics-interval-ms": 60_000,
        "allow-gpu-metrics": "false",
        "allow-cpu-metrics": "false",
        "backend-config": f"python,shm-region-prefix-name={_region(folder)}",
        "grpc-restricted-protocol": f"{_CLOSED}:closed={secrets.token_hex(16)}",
        "http-restricted-api": f"{_CLOSED_OVER_HTTP}:closed={secrets.token_hex(16)}",
    }
    return Component(
        name=name,
        command=(
            str(server / "bin" / "tritonserver"),
            # A configuration is written whole; completing it would start every model's process twice.
            "--disable-auto-complete-config",
            *(f"--{key}={value}" for key, value in options.items()),
        ),
        env=_environment(environment),
        log=folder / "triton.log",
        ready=lambda: _ready(http_port),
        stop_timeout_s=_EXIT_TIMEOUT_S + 5,
    )


def _region(folder: Path) -> str:
    """How the names of a server's shared memory begin; each folder has its own."""
    return "mainspring_" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def _server_files(environment: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / version / "site-packages"
    server = packages / "pytriton" / "tritonserver"
    if not (server / "bin" / "tritonserver").is_file() or not any(packages.glob("mainspring_engine-*.dist-info")):
        message = f"{environment} has no Triton, or no engine for this Python; 'make setup' makes this environment"
        raise ComponentFailed(message)
    return server


def _backends(server: Path, folder: Path) -> Path:
    """A folder of backends with the stub for our Python; the wheel itself is left as it is."""
    python = folder / "backends" / "python"
    shutil.rmtree(python, ignore_errors=True)
    python.mkdir(parents=True)
    stub = f"{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    for path in (
        server / "backends" / "python" / "libtriton_python.so",
        server / "backends" / "python" / "triton_python_backend_utils.py",
        server / "python_backend_stubs" / stub,
    ):
        (python / path.name).symlink_to(path)
    return python.parent


def _environment(environment: Path) -> Mapping[str, str]:
    return {
        "PATH": f"{environment / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
        "LANG": "C.UTF-8",
        "HOME": "/",
        # There is no GPU to look for.
        "CUDA_VISIBLE_DEVICES": "",
    }


def remove_shared_memory(folder: Path) -> None:
    """Removes what a killed server of this folder left in shared memory; only while none runs there."""
    for path in Path("/dev/shm").glob(f"{_region(folder)}*"):  # noqa: S108 - not a temporary file of ours, but the system's shared memory.
        path.unlink(missing_ok=True)


async def _ready(http_port: int) -> bool:
    def ask() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{http_port}/v2/health/ready", timeout=2) as answer:
                return answer.status == 200
        except (URLError, OSError):
            return False

    return await asyncio.to_thread(ask)
