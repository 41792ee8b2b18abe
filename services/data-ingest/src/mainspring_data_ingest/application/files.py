"""Use cases of files that come in, and of the refused rows that a version keeps in one."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from typing import Any

from mainspring_data_ingest.application.deletions import readable
from mainspring_data_ingest.application.line_pages import bad_token, page_of_lines
from mainspring_data_ingest.application.ports import FileStore, Ports
from mainspring_data_ingest.domain.records import RefusalReason, RefusedRow
from mainspring_data_ingest.domain.uploads import Upload
from mainspring_svckit.clock import Clock
from mainspring_svckit.names import DatasetVersionName
from mainspring_svckit.pagination import Page
from mainspring_svckit.ports import Transactions
from mainspring_svckit.repository import Repository
from mainspring_svckit.values import ArtifactRef


@dataclass(frozen=True)
class UploadPorts:
    """What storing files needs."""

    files: FileStore
    transactions: Transactions
    uploads: Repository[Upload]
    clock: Clock


class Uploads:
    """Use case of storing what callers bring."""

    def __init__(self, ports: UploadPorts, max_bytes: int) -> None:
        """Takes the ports and the largest file that is taken."""
        self._ports, self._max_bytes = ports, max_bytes

    async def store(self, project: str, filename: str, chunks: AsyncIterable[bytes]) -> ArtifactRef:
        """Stores a file, and remembers it for erasures.

        Raises:
            QuotaExceeded: It is too large; nothing is kept.
            InsufficientStorage: The store is full; nothing is kept.
        """
        media_type = mimetypes.guess_type(filename)[0] or ""
        ports = self._ports
        stored = await ports.files.put_stream(
            project, chunks, max_bytes=self._max_bytes, media_type=media_type, filename=filename
        )
        async with ports.transactions.transaction():
            await ports.uploads.put(Upload(project, stored, ports.clock.now()))
        return stored


class RefusedRows:
    """Use case of reading what a version refused."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def page(self, version: str, page: Page) -> tuple[list[RefusedRow], str | None]:
        """One page in input order, and the key of the next (a byte offset in the file); None at the end.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DATASET_VERSION_DELETED.
            InvalidInput: The page's key is not one that we gave.
        """
        async with self._ports.transactions.transaction():
            refused = (await readable(self._ports, version)).refused
        if refused is None:
            return [], None
        project = DatasetVersionName.parse(version).project
        lines, next_key = await page_of_lines(self._ports.files, project, refused, page)
        try:
            rows = [refused_row(json.loads(line)) for line in lines]
        except (ValueError, KeyError, TypeError) as err:
            raise bad_token() from err
        return rows, next_key


def refused_line(row: RefusedRow) -> bytes:
    """A refused row as a line of the file that keeps them."""
    body = {
        "source_index": row.source_index,
        "line": row.line,
        "reason": row.reason.value,
        "detail": row.detail,
        "excerpt": row.excerpt,
    }
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"


def refused_row(body: Mapping[str, Any]) -> RefusedRow:
    """What such a line says."""
    return RefusedRow(
        body["source_index"], body["line"], RefusalReason(body["reason"]), body["detail"], body["excerpt"]
    )
