"""The artifact store with a cache of its files on this machine."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
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
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{name!r} is no name of a file")
            source = await self.fetch(project, artifact)
            await asyncio.to_thread(_link, source, target)
        await asyncio.to_thread(self._prune, folder)
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

    def _prune(self, keep: Path) -> None:
        """Removes files, with all their names, until the cache is small enough; those in the folder `keep` stay."""
        known: dict[int, _Cached] = {}
        for path in (p for area in ("files", "folders") for p in self._folder.glob(f"*/{area}/**/*")):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # Another replica was quicker.
            if stat.S_ISREG(status.st_mode):
                cached = known.setdefault(status.st_ino, _Cached(status.st_mtime, status.st_size))
                cached.names.append(path)
        total = sum(cached.size_bytes for cached in known.values())
        for cached in sorted(known.values(), key=lambda c: c.used_at):
            if total <= self._max_bytes:
                return
            if not any(path.is_relative_to(keep) for path in cached.names):
                for path in cached.names:
                    path.unlink(missing_ok=True)
                total -= cached.size_bytes


@dataclass
class _Cached:
    """A file of the cache: when it was used last, and its names."""

    used_at: float
    size_bytes: int
    names: list[Path] = field(default_factory=list[Path])


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name. Not a symbolic link: readers of models refuse those that lead out of a folder."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError as err:
        if err.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copy2(source, partial)  # The file system knows no hard links.
    partial.rename(target)
    partial.unlink(missing_ok=True)  # Still there when a replica made the same link meanwhile.
