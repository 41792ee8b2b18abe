"""The content-addressed store of files: written once, verified on read, one prefix per project.

The address of bytes is their SHA-256, so a repeat of a write changes nothing, a caller can never name a path, and
whoever reads can prove what was read. Stores are named by URL: `file:///folder`, `s3://`, `gs://`, `az://`.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from mainspring_svckit.crash import crash_point
from mainspring_svckit.errors import InsufficientStorage, NotFound, PreconditionFailed, QuotaExceeded, Unavailable
from mainspring_svckit.values import ArtifactRef

BeforePut = Callable[[ArtifactRef], Awaitable[None]]
_CHUNK = 1 << 20
MAX_READ_BYTES = 64 << 20


class ArtifactStore:
    """One store, shared by all services of an installation."""

    def __init__(self, url: str) -> None:
        """Opens the store; a folder is made when it is missing."""
        if url.startswith("file://"):
            self._store = from_url(url, mkdir=True)
        else:
            self._store = from_url(url)

    async def put_bytes(self, project: str, data: bytes, *, media_type: str = "", filename: str = "") -> ArtifactRef:
        """Stores bytes that are in memory."""
        digest = hashlib.sha256(data).hexdigest()
        with _translated(digest):
            await obstore.put_async(self._store, _key(project, digest), data)
        return ArtifactRef(digest, len(data), media_type, filename)

    async def put_file(
        self,
        project: str,
        path: Path,
        *,
        media_type: str = "",
        filename: str = "",
        before: BeforePut | None = None,
    ) -> ArtifactRef:
        """Stores a file. Who must know of bytes before they are there is told by `before`."""
        digest, size = await asyncio.to_thread(_digest_file, path)
        artifact = ArtifactRef(digest, size, media_type, filename or path.name)
        if before is not None:
            await before(artifact)
        return await self._put(project, path, artifact)

    async def put_stream(
        self,
        project: str,
        chunks: AsyncIterable[bytes],
        *,
        max_bytes: int,
        media_type: str = "",
        filename: str = "",
        before: BeforePut | None = None,
    ) -> ArtifactRef:
        """Stores a stream by way of a temporary file. Who must know of bytes before they are there is told by `before`.

        Raises:
            QuotaExceeded: There are more than `max_bytes`; nothing is kept.
        """
        with _translated("upload"), tempfile.TemporaryDirectory(prefix="mainspring-upload-") as scratch:
            path = Path(scratch) / "upload"
            size = 0
            with path.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > max_bytes:
                        message = f"the upload is larger than {max_bytes} bytes; split it"
                        raise QuotaExceeded("UPLOAD_TOO_LARGE", message, {"maxBytes": str(max_bytes)})
                    await asyncio.to_thread(file.write, chunk)
            return await self.put_file(project, path, media_type=media_type, filename=filename, before=before)

    async def read(self, project: str, artifact: ArtifactRef) -> bytes:
        """The bytes, verified; for small artifacts (at most 64 MiB).

        Raises:
            NotFound: The store does not hold them.
            PreconditionFailed: ARTIFACT_CORRUPT, the bytes are not those that the digest names.
            QuotaExceeded: The artifact is too large to be read at once.
        """
        if artifact.size_bytes > MAX_READ_BYTES:
            raise QuotaExceeded("ARTIFACT_TOO_LARGE", f"artifact {artifact.sha256} is too large to be read at once")
        return b"".join([chunk async for chunk in self.stream(project, artifact)])

    async def stream(self, project: str, artifact: ArtifactRef) -> AsyncIterator[bytes]:
        """The bytes in order; a corrupt artifact raises after its last chunk, so do not act before the end."""
        hasher = hashlib.sha256()
        with _translated(artifact.sha256):
            found = await obstore.get_async(self._store, _key(project, artifact.sha256))
            async for chunk in found.stream(min_chunk_size=_CHUNK):
                data = bytes(chunk)
                hasher.update(data)
                yield data
        if hasher.hexdigest() != artifact.sha256:
            raise _corrupt(artifact.sha256)

    async def fetch(self, project: str, artifact: ArtifactRef, target: Path) -> Path:
        """Brings the bytes to a local file, verified; a file that is there already is kept when it holds these bytes.

        Args:
            project: Whose artifact.
            artifact: Which.
            target: Where to; written under another name first and then renamed, so it is whole or absent.
        """
        if target.exists() and await asyncio.to_thread(_digest_file, target) == (artifact.sha256, artifact.size_bytes):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.{id(artifact):x}.partial")
        try:
            with _translated(str(target.parent)):
                with partial.open("wb") as file:
                    async for chunk in self.stream(project, artifact):
                        await asyncio.to_thread(file.write, chunk)
                crash_point("artifacts:before-rename")
                partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    async def exists(self, project: str, artifact: ArtifactRef) -> bool:
        """Whether the store holds an object of that digest and size; the bytes are verified when they are read."""
        with _translated(artifact.sha256):
            return await self._has(project, artifact.sha256, artifact.size_bytes)

    async def discard(self, project: str, artifact: ArtifactRef) -> None:
        """Removes the bytes; an artifact that is not there is fine.

        Only for files that their owner alone can have referred to, such as a run's checkpoints: whoever else stored the
        same bytes refers to the same object.
        """
        with _translated(artifact.sha256), suppress(FileNotFoundError):
            await obstore.delete_async(self._store, _key(project, artifact.sha256))

    async def _put(self, project: str, path: Path, artifact: ArtifactRef) -> ArtifactRef:
        with _translated(artifact.sha256):
            if not await self._has(project, artifact.sha256, artifact.size_bytes):
                await obstore.put_async(self._store, _key(project, artifact.sha256), path)
        crash_point("artifacts:after-put")
        return artifact

    async def _has(self, project: str, digest: str, size: int) -> bool:
        try:
            head = await obstore.head_async(self._store, _key(project, digest))
        except FileNotFoundError:
            return False
        return head["size"] == size


def _key(project: str, digest: str) -> str:
    return f"projects/{project}/sha256/{digest[:2]}/{digest}"


def _digest_file(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


def _corrupt(digest: str) -> PreconditionFailed:
    message = f"artifact {digest} does not hold the bytes that its digest names; restore it from a copy"
    return PreconditionFailed("ARTIFACT_CORRUPT", message, {"sha256": digest})


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as err:
        raise NotFound("Artifact", what) from err
    except OSError as err:
        if err.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise InsufficientStorage("the artifact store") from err
        raise Unavailable("ARTIFACT_STORE_UNAVAILABLE", f"the artifact store failed: {err.strerror}") from err
    except BaseError as err:
        # Its text is the system's; the last is what a limit on files says.
        if any(said in str(err) for said in ("No space left", "quota exceeded", "File too large")):
            raise InsufficientStorage("the artifact store") from err
        raise Unavailable("ARTIFACT_STORE_UNAVAILABLE", "the artifact store failed; try again in a moment") from err
