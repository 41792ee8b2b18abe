"""Calls the programs of mainspring-modelfiles: a request in, an answer out, both JSON, in a process of its own."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring_registry.domain.catalogue import ModelVersion
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import InvalidInput, Unavailable
from mainspring_svckit.names import ModelVersionName

REFUSED = 2
"""Exit status with which a program says that the model may not be; stdout then holds reason and message."""


@dataclass(frozen=True)
class Program:
    """One program.

    Attributes:
        python: Interpreter of an environment that has `mainspring-modelfiles`.
        module: What it runs.
        what: What it does, as a noun for messages.
        timeout_s: Longest call.
        too_slow: Reason of a call that took longer.
        failed: Reason of a call that ended in another way than with an answer or a refusal.
    """

    python: str
    module: str
    what: str
    timeout_s: float
    too_slow: str
    failed: str

    async def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Runs it once.

        Raises:
            InvalidInput: It refused, or took too long.
            Unavailable: It failed.
        """
        child = await asyncio.create_subprocess_exec(
            self.python,
            "-m",
            self.module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self.timeout_s):
                out, err = await child.communicate(json.dumps(request).encode())
        except TimeoutError as late:
            message = f"the {self.what} took longer than {self.timeout_s:.0f} s"
            raise InvalidInput(message, reason=self.too_slow) from late
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode == 0:
            return json.loads(out)
        if child.returncode == REFUSED:
            refusal = json.loads(out)
            raise InvalidInput(refusal["message"], reason=refusal["reason"])
        tail = err.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(self.failed, f"the {self.what} ended with status {child.returncode}: {tail[0][:300]}")


async def fetch_below(artifacts: ArtifactStore, version: ModelVersion, prefix: str, folder: Path) -> Path:
    """Brings a version's files whose roles begin with `prefix` into a folder of this machine; returns the folder."""
    for role in version.artifacts:
        if role.startswith(prefix):
            await fetch_one(artifacts, version, role, folder / role.removeprefix(prefix))
    return folder


async def fetch_one(artifacts: ArtifactStore, version: ModelVersion, role: str, path: Path) -> Path:
    """Brings one file of a version to a path of this machine; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    await artifacts.fetch(ModelVersionName.parse(version.name).project, version.artifacts[role], path)
    return path
