"""Triton as the model server: files from the artifact store to a folder that both see, then load, then believe nothing
but an inference.

Layout below `cache_dir`: `<project>/<sha256>.gguf`. A model's folder in the repository is written before its files are
fetched, so that whoever cleans up sees what is about to be needed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Set
from pathlib import Path

from mainspring_answers.triton import TritonClient
from mainspring_inference.adapters import triton_repository
from mainspring_inference.adapters.triton_repository import ModelUse, TritonModel
from mainspring_inference.application.ports import ServableVersion
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_svckit.logs import get_logger
from mainspring_svckit.names import ModelVersionName
from mainspring_svckit.values import ArtifactRef

_PROBE_PAUSE_S = 0.1
# What answered this recently is not lost; readiness asks the same of the same client meanwhile.
_FRESH_S = 4.0
log = get_logger(__name__)


class TritonServer:
    """`ModelServer` by Triton's repository API, under explicit model control."""

    def __init__(
        self,
        triton: TritonClient,
        artifacts: ArtifactStore,
        *,
        repository: Path,
        cache: Path,
        slots: int,
        threads: int,
        load_timeout_s: float,
    ) -> None:
        """Takes the folders that Triton reads too, and what every model's engine gets; 0 threads are all cores."""
        self._triton, self._artifacts = triton, artifacts
        self._repository, self._cache = repository, cache
        self._slots = slots
        self._threads = threads or len(os.sched_getaffinity(0))
        self._load_timeout_s = load_timeout_s
        # Between the look for files that nobody needs and their removal nobody may begin to need one.
        self._files = asyncio.Lock()

    async def load(self, triton_model: str, version: ServableVersion) -> None:
        model = self._model(version)
        async with self._files:
            await asyncio.to_thread(triton_repository.write, self._repository, triton_model, model)
            project = ModelVersionName.parse(version.model_version).project
            await self._artifacts.fetch(project, version.base, model.gguf)
            if version.adapter is not None and model.adapter is not None:
                await self._artifacts.fetch(project, version.adapter, model.adapter)
        try:
            await self._triton.load(triton_model, timeout_s=self._load_timeout_s)
        except PreconditionFailed as err:
            if _whole(model):
                raise
            # Another replica has cleaned up in the meantime; the next attempt fetches the files again.
            message = f"the files of {version.model_version} were removed while it was loaded; it is tried again"
            raise Unavailable("MODEL_FILES_REMOVED", message) from err
        await self._answers(triton_model)
        log.info("model_loaded", triton_model=triton_model, model_version=version.model_version)

    async def unload(self, triton_model: str) -> None:
        await self._triton.unload(triton_model)
        async with self._files:
            await asyncio.to_thread(self._clean, triton_model)
        log.info("model_unloaded", triton_model=triton_model)

    async def loaded(self) -> Set[str]:
        held = [name for name, state in (await self._triton.index()).items() if state == "READY"]
        alive = await asyncio.gather(*(self._alive(name) for name in held))
        return {name for name, is_alive in zip(held, alive, strict=True) if is_alive}

    async def _alive(self, triton_model: str) -> bool:
        """False only when Triton says that it cannot answer: a busy model that is slow to answer is not lost."""
        try:
            await self._triton.probe(triton_model, fresh_s=_FRESH_S)
        except Unavailable as err:
            return err.reason != "MODEL_NOT_READY"
        return True

    async def _answers(self, triton_model: str) -> None:
        try:
            async with asyncio.timeout(self._load_timeout_s):
                while not await self._triton.is_ready(triton_model):  # noqa: ASYNC110 - Triton tells nobody
                    await asyncio.sleep(_PROBE_PAUSE_S)
        except TimeoutError as err:
            message = f"{triton_model} is loaded but did not answer within {self._load_timeout_s:g} s"
            raise Unavailable("MODEL_NOT_READY", message, metadata={"model": triton_model}) from err

    def _model(self, version: ServableVersion) -> TritonModel:
        project = ModelVersionName.parse(version.model_version).project
        return TritonModel(
            kind=ModelUse.EMBED if version.embedding else ModelUse.GENERATE,
            gguf=self._cached(project, version.base),
            context_tokens=version.serving.context_tokens,
            adapter=self._cached(project, version.adapter) if version.adapter is not None else None,
            slots=self._slots,
            threads=self._threads,
        )

    def _cached(self, project: str, artifact: ArtifactRef) -> Path:
        return (self._cache / project / f"{artifact.sha256}.gguf").resolve()

    def _clean(self, triton_model: str) -> None:
        shutil.rmtree(self._repository / triton_model, ignore_errors=True)
        needed = triton_repository.referenced(self._repository)
        for path in self._cache.glob("*/*.gguf"):
            if path.resolve() not in needed:
                path.unlink(missing_ok=True)


def _whole(model: TritonModel) -> bool:
    return model.gguf.exists() and (model.adapter is None or model.adapter.exists())
