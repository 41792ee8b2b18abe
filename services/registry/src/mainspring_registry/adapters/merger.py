"""Merges adapters in a child process, which has the libraries for it and gives their memory back."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mainspring_registry.adapters.children import Program, fetch_below
from mainspring_registry.application.merges import MergedFiles
from mainspring_registry.domain.catalogue import ModelVersion
from mainspring_registry.domain.merges import Merge
from mainspring_registry.domain.quantizations import HF, PEFT
from mainspring_svckit.artifacts import ArtifactStore


class ChildMerger:
    """`AdapterMerger` by way of `python -m mainspring_modelfiles.merger`."""

    def __init__(self, artifacts: ArtifactStore, python: str, scratch: Path | None, timeout_s: float) -> None:
        """Takes where files are and how to run the child; `python` has `mainspring-modelfiles[merge]`."""
        module = "mainspring_modelfiles.merger"
        self._program = Program(python, module, "merger", timeout_s, "MERGE_TOO_SLOW", "MERGER_FAILED")
        self._artifacts, self._scratch = artifacts, scratch

    async def run(self, work: Merge, sources: Sequence[ModelVersion], base: ModelVersion) -> MergedFiles:
        folder = Path(tempfile.mkdtemp(prefix="mainspring-merge-", dir=self._scratch))
        try:
            parts = [
                {
                    "folder": str(await fetch_below(self._artifacts, version, PEFT, folder / f"part{number}")),
                    "weight": source.weight,
                }
                for number, (source, version) in enumerate(zip(work.sources, sources, strict=True))
            ]
            out = folder / "out"
            out.mkdir()
            answer = await self._program.call(
                {
                    "method": work.method.value,
                    "density": work.density,
                    "seed": work.seed,
                    "rank": work.rank,
                    "base": str(await fetch_below(self._artifacts, base, HF, folder / "base")),
                    "base_name": base.name,
                    "adapters": parts,
                    "out": str(out),
                }
            )
            return MergedFiles(folder, {role: out / path for role, path in answer["files"].items()})
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
