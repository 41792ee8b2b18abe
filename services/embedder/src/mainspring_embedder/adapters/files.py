"""Files of documents, by way of a temporary file: read twice, and verified before the first line is believed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from mainspring_embedder.application.ports import LocalFile
from mainspring_embedder.domain.documents import MAX_LINE_BYTES
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.values import ArtifactRef

# What is cut into chunks between two looks at other work.
_READ_BYTES = 128 << 10


class StoredFiles:
    """`Files` by way of the artifact store."""

    def __init__(self, store: ArtifactStore, scratch: Path | None) -> None:
        """Takes the store, and a folder for temporary files (None for the system's)."""
        self._store, self._scratch = store, scratch

    @asynccontextmanager
    async def local(self, project: str, artifact: ArtifactRef) -> AsyncIterator[LocalFile]:
        with tempfile.TemporaryDirectory(prefix="mainspring-index-", dir=self._scratch) as folder:
            yield TextFile(await self._store.fetch(project, artifact, Path(folder) / "documents.jsonl"))


class TextFile:
    """`LocalFile` on a path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def lines(self) -> AsyncIterator[Sequence[bytes]]:
        with self._path.open("rb") as file:
            while some := await asyncio.to_thread(_read_lines, file):
                yield some


def _read_lines(file: IO[bytes]) -> list[bytes]:
    found: list[bytes] = []
    size = 0
    while size < _READ_BYTES:
        line = file.readline(MAX_LINE_BYTES + 2)
        if not line:
            break
        whole = line.endswith(b"\n")
        while not whole and (rest := file.readline(MAX_LINE_BYTES)):
            whole = rest.endswith(b"\n")  # The rest of a line that is too long is passed over.
        found.append(line.rstrip(b"\r\n"))
        size += len(line)
    return found
