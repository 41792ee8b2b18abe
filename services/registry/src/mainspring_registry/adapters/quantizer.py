"""Quantizes in a child process, so that merging and encoding weights neither blocks nor bloats the service."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mainspring_registry.adapters.children import Program, fetch_below, fetch_one
from mainspring_registry.application.quantizations import CompressedFiles
from mainspring_registry.domain.catalogue import ModelKind, ModelVersion
from mainspring_registry.domain.quantizations import ADAPTER_GGUF, GGUF, HF, PEFT, EngineMeasure, Format, Lost, Sample
from mainspring_svckit.artifacts import ArtifactStore


class ChildQuantizer:
    """`ModelQuantizer` by way of `python -m mainspring_modelfiles.quantizer`."""

    def __init__(self, artifacts: ArtifactStore, python: str, scratch: Path | None, timeout_s: float) -> None:
        """Takes where files are and how to run the child; `python` has `mainspring-modelfiles[pack,quantize]`."""
        module = "mainspring_modelfiles.quantizer"
        self._program = Program(python, module, "quantizer", timeout_s, "QUANTIZATION_TOO_SLOW", "QUANTIZER_FAILED")
        self._artifacts, self._scratch = artifacts, scratch

    async def run(
        self, source: ModelVersion, base: ModelVersion, format_: Format, samples: Sequence[Sample] = ()
    ) -> CompressedFiles:
        folder = Path(tempfile.mkdtemp(prefix="mainspring-quantize-", dir=self._scratch))
        try:
            request = await self._request(source, base, format_, folder)
            told = [asdict(sample) for sample in samples]
            answer = await self._program.call({**request, "format": format_.value, "out": str(folder), "samples": told})
            return CompressedFiles(
                folder=folder,
                files={role: folder / path for role, path in answer["files"].items()},
                tensor_types=answer["types"],
                before=_measure(answer["before"]),
                after=_measure(answer["after"]),
                lost=Lost(**answer["lost"]) if answer["lost"] else None,
            )
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise

    async def _request(self, source: ModelVersion, base: ModelVersion, format_: Format, folder: Path) -> dict[str, Any]:
        """The files that it works on, brought to this machine."""
        merged = source.kind is ModelKind.ADAPTER
        store = self._artifacts
        hf = await fetch_below(store, base, HF, folder / "base")
        peft = await fetch_below(store, source, PEFT, folder / "adapter") if merged else None
        request = {"base": str(hf), "adapter": str(peft or "")}
        if format_.for_gpus:
            return request
        gguf = await fetch_one(store, base, GGUF, folder / "before.gguf")
        adapter = await fetch_one(store, source, ADAPTER_GGUF, folder / "before-adapter.gguf") if merged else None
        return {**request, "before": {"gguf": str(gguf), "adapter": str(adapter or "")}}


def _measure(values: Mapping[str, Any]) -> EngineMeasure:
    return EngineMeasure(
        file_bytes=int(values["file_bytes"]),
        resident_bytes=int(values.get("resident_bytes", 0)),
        prompt_tokens_per_second=float(values.get("prompt_tokens_per_second", 0)),
        tokens_per_second=float(values.get("tokens_per_second", 0)),
        device=str(values.get("device", "")),
    )
