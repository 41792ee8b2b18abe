"""Imports in a child process, so that reading and converting weights neither blocks nor bloats the service."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mainspring_registry.application.ports import ImportedFiles
from mainspring_registry.domain.catalogue import ServingSpec
from mainspring_registry.domain.imports import ModelImport
from mainspring_svckit.errors import InvalidInput, Unavailable

REFUSED = 2
"""Exit status with which the child says that the source may not come in; stdout then holds reason and message."""


class ChildImporter:
    """`ModelImporter` by way of `python -m mainspring_modelfiles.importer`."""

    def __init__(self, python: str, import_roots: Sequence[Path], scratch: Path | None, timeout_s: float) -> None:
        """Takes how to run the child.

        Args:
            python: Interpreter of an environment that has `mainspring-modelfiles`.
            import_roots: Folders below which callers may name paths.
            scratch: Folder for temporary files; None for the system's.
            timeout_s: Longest import.
        """
        self._python, self._roots = python, [root.resolve() for root in import_roots]
        self._scratch, self._timeout_s = scratch, timeout_s

    async def run(self, work: ModelImport) -> ImportedFiles:
        request = {
            "kind": work.kind.value,
            "package": work.package,
            "path": str(self._allowed(work.path)) if work.path else "",
            "context_tokens": work.context_tokens,
        }
        folder = Path(tempfile.mkdtemp(prefix="mainspring-import-", dir=self._scratch))
        try:
            answer = await self._call({**request, "out": str(folder)})
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        return ImportedFiles(
            folder=folder,
            files={role: folder / path for role, path in answer["files"].items()},
            serving=ServingSpec(**answer["serving"]),
            licence=answer["licence"],
            origin=answer["origin"],
        )

    def _allowed(self, path: str) -> Path:
        resolved = Path(path).resolve()
        if not any(resolved.is_relative_to(root) for root in self._roots):
            roots = ", ".join(map(str, self._roots)) or "(none)"
            message = f"{path!r} is not below an import root of this registry: {roots}"
            raise InvalidInput(message, reason="PATH_NOT_ALLOWED")
        return resolved

    async def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        child = await asyncio.create_subprocess_exec(
            self._python,
            "-m",
            "mainspring_modelfiles.importer",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                out, err = await child.communicate(json.dumps(request).encode())
        except TimeoutError as late:
            message = f"the import took longer than {self._timeout_s:.0f} s"
            raise InvalidInput(message, reason="IMPORT_TOO_SLOW") from late
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
        raise Unavailable("IMPORTER_FAILED", f"the importer ended with status {child.returncode}: {tail[0][:300]}")
