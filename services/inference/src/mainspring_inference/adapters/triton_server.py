"""Triton as the model server: files from the artifact store to a folder that both see, then load, then believe nothing
but an inference.

Layout below `cache_dir`: `<project>/<sha256>.gguf`, and `<project>/<sha256 over names and digests>.hf/<name>` for what
is a folder. A model's folder in the repository is written before its files are
fetched, so that whoever cleans up sees what is about to be needed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Mapping, Set
from pathlib import Path

from mainspring_answers.triton import TritonClient
from mainspring_inference.adapters import triton_repository
from mainspring_inference.adapters.triton_repository import Model, ModelUse, TritonModel
from mainspring_inference.adapters.vllm_repository import VllmModel, rank_of
from mainspring_inference.application.ports import ServableVersion
from mainspring_inference.domain.deployments import Engine
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_svckit.logs import get_logger
from mainspring_svckit.names import ModelVersionName
from mainspring_svckit.values import ArtifactRef

_PROBE_PAUSE_S = 0.1
# What answered this recently is not lost; readiness asks the same of the same client meanwhile.
_FRESH_S = 4.0
_GGUF, _FOLDER = ".gguf", ".hf"
_ADAPTER_CONFIG = "adapter_config.json"
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
        gpu_memory_share: float = 0.4,
    ) -> None:
        """Takes the folders that Triton reads too, and what every model's engine gets; 0 threads are all cores."""
        self._triton, self._artifacts = triton, artifacts
        self._repository, self._cache = repository, cache
        self._slots = slots
        self._threads = threads or len(os.sched_getaffinity(0))
        self._load_timeout_s, self._gpu_memory_share = load_timeout_s, gpu_memory_share
        # Between the look for files that nobody needs and their removal nobody may begin to need one.
        self._files = asyncio.Lock()

    async def load(self, triton_model: str, version: ServableVersion) -> None:
        project = ModelVersionName.parse(version.model_version).project
        base, adapter = self._places(project, version.base), self._places(project, version.adapter or {})
        model = await self._model(version, project)
        files = base | adapter
        async with self._files:
            await asyncio.to_thread(triton_repository.write, self._repository, triton_model, model)
            for path, artifact in files.items():
                await self._artifacts.fetch(project, artifact, path)
        try:
            await self._triton.load(triton_model, timeout_s=self._load_timeout_s)
        except PreconditionFailed as err:
            if all(path.exists() for path in files):
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

    async def _model(self, version: ServableVersion, project: str) -> Model:
        base, adapter = self._home(project, version.base), version.adapter
        adapter_home = self._home(project, adapter) if adapter is not None else None
        context_tokens = version.serving.context_tokens
        if version.engine is Engine.VLLM:
            rank = 0
            if adapter is not None:
                if _ADAPTER_CONFIG not in adapter:
                    message = (
                        f"{version.model_version} has no file {_ADAPTER_CONFIG!r} beside its adapter; train it again"
                    )
                    details = {"modelVersion": version.model_version, "role": _ADAPTER_CONFIG}
                    raise PreconditionFailed("FILE_MISSING", message, details)
                rank = rank_of(await self._artifacts.read(project, adapter[_ADAPTER_CONFIG]))
            return VllmModel(base, context_tokens, adapter_home, rank, self._slots, self._gpu_memory_share)
        kind = ModelUse.EMBED if version.embedding else ModelUse.GENERATE
        return TritonModel(kind, base, context_tokens, adapter_home, self._slots, self._threads)

    def _home(self, project: str, files: Mapping[str, ArtifactRef]) -> Path:
        """Where the files of a model or an adapter lie: the GGUF file itself, or the folder of all."""
        if len(files) == 1:
            return (self._cache / project / f"{next(iter(files.values())).sha256}{_GGUF}").resolve()
        told = "".join(f"{name} {file.sha256}\n" for name, file in sorted(files.items()))
        return (self._cache / project / f"{hashlib.sha256(told.encode()).hexdigest()}{_FOLDER}").resolve()

    def _places(self, project: str, files: Mapping[str, ArtifactRef]) -> dict[Path, ArtifactRef]:
        home = self._home(project, files) if files else Path()
        return {home if len(files) == 1 else home / name: file for name, file in files.items()}

    def _clean(self, triton_model: str) -> None:
        shutil.rmtree(self._repository / triton_model, ignore_errors=True)
        needed = triton_repository.referenced(self._repository)
        for path in self._cache.glob(f"*/*{_GGUF}"):
            if path.resolve() not in needed:
                path.unlink(missing_ok=True)
        for path in self._cache.glob(f"*/*{_FOLDER}"):
            if path.resolve() not in needed:
                shutil.rmtree(path, ignore_errors=True)
