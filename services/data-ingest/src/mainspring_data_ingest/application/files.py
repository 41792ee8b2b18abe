"""Use cases of files that come in, and of the refused and changed rows that a version keeps in files."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from mainspring_data_ingest.application.deletions import readable
from mainspring_data_ingest.application.line_pages import bad_token, page_of_lines
from mainspring_data_ingest.application.ports import FileStore, Ports
from mainspring_data_ingest.domain.records import ChangedRow, RefusalReason, RefusedRow, StepPlace
from mainspring_data_ingest.domain.uploads import Upload
from mainspring_svckit.clock import Clock
from mainspring_svckit.names import DatasetVersionName
from mainspring_svckit.pagination import Page
from mainspring_svckit.ports import Transactions
from mainspring_svckit.repository import Repository
from mainspring_svckit.values import ArtifactRef

Row = TypeVar("Row")


@dataclass(frozen=True)
class UploadPorts:
    """What storing files needs."""

    files: FileStore
    transactions: Transactions
    uploads: Repository[Upload]
    clock: Clock


async def remember(ports: UploadPorts | Ports, project: str, artifact: ArtifactRef) -> None:
    """Writes down that a file is, or will be, in the store, so that erasures reach it."""
    async with ports.transactions.transaction():
        await ports.uploads.put(Upload(project, artifact, ports.clock.now()))


class Uploads:
    """Use case of storing what callers bring."""

    def __init__(self, ports: UploadPorts, max_bytes: int) -> None:
        """Takes the ports and the largest file that is taken."""
        self._ports, self._max_bytes = ports, max_bytes

    async def store(self, project: str, filename: str, chunks: AsyncIterable[bytes]) -> ArtifactRef:
        """Stores a file, and remembers it for erasures: before its bytes are there, so that none are that no erasure
        finds, and once more then, since an erasure of the same bytes may have come between.

        Raises:
            QuotaExceeded: It is too large; nothing is kept.
            InsufficientStorage: The store is full; nothing of the bytes is kept.
        """
        media_type = mimetypes.guess_type(filename)[0] or ""
        noted = partial(remember, self._ports, project)
        stored = await self._ports.files.put_stream(
            project, chunks, max_bytes=self._max_bytes, media_type=media_type, filename=filename, before=noted
        )
        await noted(stored)
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
        return await _page(self._ports, version, refused, refused_row, page)


class ChangedRows:
    """Use case of reading which rows of a version steps have changed."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def page(self, version: str, page: Page) -> tuple[list[ChangedRow], str | None]:
        """One page in input order, and the key of the next; None at the end, and nothing of a version that was made
        before this was written down.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DATASET_VERSION_DELETED.
            InvalidInput: The page's key is not one that we gave.
        """
        async with self._ports.transactions.transaction():
            changed = (await readable(self._ports, version)).changed
        return await _page(self._ports, version, changed, changed_row, page)


async def _page(
    ports: Ports, version: str, file: ArtifactRef | None, row_of: Callable[[Mapping[str, Any]], Row], page: Page
) -> tuple[list[Row], str | None]:
    if file is None:
        return [], None
    lines, next_key = await page_of_lines(ports.files, DatasetVersionName.parse(version).project, file, page)
    try:
        return [row_of(json.loads(line)) for line in lines], next_key
    except (ValueError, KeyError, TypeError) as err:
        raise bad_token() from err


def refused_line(row: RefusedRow) -> bytes:
    """A refused row as a line of the file that keeps them."""
    body = {
        "source_index": row.source_index,
        "line": row.line,
        "reason": row.reason.value,
        "detail": row.detail,
        "excerpt": row.excerpt,
        "step": row.step.name,
        "step_number": row.step.number,
    }
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"


def refused_row(body: Mapping[str, Any]) -> RefusedRow:
    """What such a line says; older releases wrote no step down."""
    step = StepPlace(body.get("step", ""), body.get("step_number", 0))
    reason = RefusalReason(body["reason"])
    return RefusedRow(body["source_index"], body["line"], reason, body["detail"], body["excerpt"], step)


def changed_line(row: ChangedRow) -> bytes:
    """A changed row as a line of the file that tells of them."""
    body = {
        "source_index": row.source_index,
        "line": row.line,
        "row_id": row.row_id,
        "steps": [{"step": step.name, "step_number": step.number} for step in row.steps],
    }
    return json.dumps(body).encode() + b"\n"


def changed_row(body: Mapping[str, Any]) -> ChangedRow:
    """What such a line says."""
    steps = tuple([StepPlace(step["step"], step["step_number"]) for step in body["steps"]])
    return ChangedRow(body["source_index"], body["line"], body["row_id"], steps)
