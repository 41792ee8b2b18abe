"""Pages of a stored file of JSON lines; the key of a page is a byte offset."""

from __future__ import annotations

from mainspring_data_ingest.application.ports import FileStore
from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.pagination import Page
from mainspring_svckit.values import ArtifactRef


async def page_of_lines(
    files: FileStore, project: str, artifact: ArtifactRef, page: Page, *, max_bytes: int = 0
) -> tuple[list[bytes], str | None]:
    """One page, and the key of the next; None at the end. Reads no further than it must.

    Args:
        files: The store.
        project: Whose file.
        artifact: Which.
        page: How many lines, and after which key.
        max_bytes: Where a page ends early, after one line at least; 0 for nowhere.

    Raises:
        InvalidInput: The page's key is not one that we gave.
    """
    offset = number_of(page.after)
    lines: list[bytes] = []
    rest, position, size = b"", 0, 0
    async for chunk in files.stream(project, artifact):
        start = max(0, offset - position)
        position += len(chunk)
        *whole, rest = (rest + chunk[start:]).split(b"\n")
        for line in whole:
            size += len(line)
            if len(lines) == page.size or (lines and max_bytes and size > max_bytes):
                return lines, str(offset + sum(len(line) + 1 for line in lines))
            lines.append(line)
    return lines, None


def number_of(key: str | None) -> int:
    """The number that a page's key is; 0 for the first page.

    Raises:
        InvalidInput: It is none.
    """
    if key is None:
        return 0
    if not key.isdecimal() or len(key) > 15:
        raise bad_token()
    return int(key)


def bad_token() -> InvalidInput:
    """Says that a page token is not one that we gave."""
    description = "is not a token of this list; leave it empty to start again"
    violation = FieldViolation("page_token", description)
    return InvalidInput(f"page_token {description}", reason="PAGE_TOKEN_INVALID", violations=[violation])
