"""Use cases of files that come in, and of the refused rows that a version keeps in one."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import AsyncIterable

from mainspring_data_ingest.application.ports import FileStore, Ports
from mainspring_data_ingest.domain.records import RefusalReason, RefusedRow
from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.names import DatasetVersionName
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef


class Uploads:
    """Use case of storing what callers send."""

    def __init__(self, files: FileStore, max_bytes: int) -> None:
        """Takes the store and the largest file that it is given."""
        self._files, self._max_bytes = files, max_bytes

    async def store(self, project: str, filename: str, chunks: AsyncIterable[bytes]) -> ArtifactRef:
        """Stores a file.

        Raises:
            QuotaExceeded: It is too large; nothing is kept.
            InsufficientStorage: The store is full; nothing is kept.
        """
        media_type = mimetypes.guess_type(filename)[0] or ""
        return await self._files.put_stream(
            project, chunks, max_bytes=self._max_bytes, media_type=media_type, filename=filename
        )


class RefusedRows:
    """Use case of reading what a version refused."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def page(self, version: str, page: Page) -> tuple[list[RefusedRow], str | None]:
        """One page in input order, and the key of the next (a byte offset in the file); None at the end.

        Raises:
            NotFound: There is no such version.
            InvalidInput: The page's key is not one that we gave.
        """
        async with self._ports.transactions.transaction():
            refused = (await require(self._ports.versions, "DatasetVersion", version)).value.refused
        if refused is None:
            return [], None
        offset = _offset(page.after)
        lines, more = await self._lines(DatasetVersionName.parse(version).project, refused, offset, page.size)
        try:
            rows = [_row(line) for line in lines]
        except (ValueError, KeyError, TypeError) as err:
            raise _bad_token() from err
        return rows, str(offset + sum(map(len, lines))) if more else None

    async def _lines(self, project: str, artifact: ArtifactRef, offset: int, count: int) -> tuple[list[bytes], bool]:
        """At most `count` lines from `offset` on, and whether more follow; reads no further than it must."""
        lines: list[bytes] = []
        rest, position = b"", 0
        async for chunk in self._ports.files.stream(project, artifact):
            start = max(0, offset - position)
            position += len(chunk)
            *whole, rest = (rest + chunk[start:]).split(b"\n")
            lines += [line + b"\n" for line in whole[: count + 1 - len(lines)]]
            if len(lines) > count:
                break
        return lines[:count], len(lines) > count


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


def _row(line: bytes) -> RefusedRow:
    body = json.loads(line)
    return RefusedRow(
        body["source_index"], body["line"], RefusalReason(body["reason"]), body["detail"], body["excerpt"]
    )


def _offset(key: str | None) -> int:
    if key is None:
        return 0
    if not key.isdecimal() or len(key) > 15:
        raise _bad_token()
    return int(key)


def _bad_token() -> InvalidInput:
    description = "is not a token of this list; leave it empty to start again"
    violation = FieldViolation("page_token", description)
    return InvalidInput(f"page_token {description}", reason="PAGE_TOKEN_INVALID", violations=[violation])
