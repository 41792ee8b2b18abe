"""Imports in a child process, so that reading and converting weights neither blocks nor bloats the service."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mainspring_registry.adapters.children import Program
from mainspring_registry.application.ports import ImportedFiles
from mainspring_registry.domain.catalogue import ServingSpec
from mainspring_registry.domain.imports import ModelImport
from mainspring_svckit.errors import InvalidInput


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
        module = "mainspring_modelfiles.importer"
        self._program = Program(python, module, "importer", timeout_s, "IMPORT_TOO_SLOW", "IMPORTER_FAILED")
        self._roots, self._scratch = [root.resolve() for root in import_roots], scratch

    async def run(self, work: ModelImport) -> ImportedFiles:
        request = {
            "kind": work.kind.value,
            "package": work.package,
            "path": str(self._allowed(work.path)) if work.path else "",
            "hub": work.hub,
            "context_tokens": work.context_tokens,
        }
        folder = Path(tempfile.mkdtemp(prefix="mainspring-import-", dir=self._scratch))
        try:
            answer = await self._program.call({**request, "out": str(folder)})
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
