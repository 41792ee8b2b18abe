"""The artifact store with a cache of its files on this machine."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.values import ArtifactRef


class CachedFiles:
    """`Files`: reads come from the cache, where each file is verified before every use."""

    def __init__(self, store: ArtifactStore, folder: Path, max_bytes: int) -> None:
        """Takes where things are.

        Args:
            store: The artifact store.
            folder: The cache; replicas on one machine may share it.
            max_bytes: Above this the files that were used longest ago are removed.
        """
        self._store, self._folder, self._max_bytes = store, folder, max_bytes

    async def fetch(self, project: str, artifact: ArtifactRef) -> Path:
        target = self._folder / project / "files" / artifact.sha256
        await self._store.fetch(project, artifact, target)
        os.utime(target)
        return target

    async def fetch_folder(self, project: str, files: Mapping[str, ArtifactRef]) -> Path:
        identity = json.dumps({name: artifact.sha256 for name, artifact in files.items()}, sort_keys=True)
        folder = self._folder / project / "folders" / hashlib.sha256(identity.encode()).hexdigest()
        for name, artifact in files.items():
            source, link = await self.fetch(project, artifact), folder / name
            if not link.resolve().is_relative_to(self._folder.resolve()):
                raise ValueError(f"{name!r} is no name of a file")
            link.parent.mkdir(parents=True, exist_ok=True)
            partial = link.with_name(f".{link.name}.{os.getpid()}.partial")
            partial.unlink(missing_ok=True)
            partial.symlink_to(source.resolve())
            partial.rename(link)
        await asyncio.to_thread(self._prune)
        return folder

    async def put_file(self, project: str, path: Path, *, media_type: str = "", filename: str = "") -> ArtifactRef:
        return await self._store.put_file(project, path, media_type=media_type, filename=filename)

    async def put_bytes(self, project: str, data: bytes, *, media_type: str = "", filename: str = "") -> ArtifactRef:
        return await self._store.put_bytes(project, data, media_type=media_type, filename=filename)

    async def read(self, project: str, artifact: ArtifactRef) -> bytes:
        return await self._store.read(project, artifact)

    async def exists(self, project: str, artifact: ArtifactRef) -> bool:
        return await self._store.exists(project, artifact)

    async def discard(self, project: str, artifact: ArtifactRef) -> None:
        await self._store.discard(project, artifact)
        (self._folder / project / "files" / artifact.sha256).unlink(missing_ok=True)

    def _prune(self) -> None:
        known: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*/files/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # Another replica was quicker.
            known.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in known)
        for _, size, path in sorted(known):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size
