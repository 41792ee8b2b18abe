"""The worker's environment as two digests: its own source, and everything that is installed beside it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from typing import Any

from mainspring_svckit.logs import get_logger
from mainspring_trainer.domain.tracking import Environment

_WITHIN_S = 60.0
_NOTABLE = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers", "safetensors", "bitsandbytes")
# Runs in the worker's environment, which has none of our packages but the worker.
_ASK = """
import hashlib, importlib.metadata as metadata, importlib.util, json, pathlib, platform, sys
spec = importlib.util.find_spec(sys.argv[1])
code = hashlib.sha256()
root = pathlib.Path(spec.origin).parent
for path in sorted(root.rglob("*.py")):
    code.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\\n".encode())
packages = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions()}
packages["python"] = platform.python_version()
packages["platform"] = platform.platform()
print(json.dumps({"code": code.hexdigest(), "packages": packages}))
"""
log = get_logger(__name__)


async def describe(python: str, module: str) -> Environment:
    """The environment of an interpreter; an empty one when it cannot be asked."""
    told: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        process = await asyncio.create_subprocess_exec(
            python, "-I", "-c", _ASK, module, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
        try:
            async with asyncio.timeout(_WITHIN_S):
                out, _ = await process.communicate()
            told = json.loads(out)
        except TimeoutError:
            process.kill()
            await process.wait()
    if not told:
        log.warning("worker_environment_unknown", python=python)
        return Environment()
    packages: dict[str, str] = told["packages"]
    digest = hashlib.sha256(json.dumps(packages, sort_keys=True).encode()).hexdigest()
    notable = {name: packages[name] for name in ("python", *_NOTABLE) if name in packages}
    return Environment(str(told["code"]), digest, notable)
