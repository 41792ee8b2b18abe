"""Documents as records. Runs in the documents' process only.

Every parser gives pairs of a place (page, paragraph or line, from 1) and columns.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mainspring_data_ingest.adapters.passages import passages
from mainspring_data_ingest.adapters.steps.markup import text_of_markup
from mainspring_data_ingest.domain.ingestions import SourceFormat

MAX_DOCX_BYTES = 512 << 20
MAX_DOCX_RATIO = 300
MAX_HTML_BYTES = 64 << 20
MAX_PYTHON_BYTES = 4 << 20


class Unreadable(Exception):
    """A document cannot be read; the message says why, without quoting it."""


def records(path: Path, source_format: SourceFormat, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a document.

    Raises:
        Unreadable: It is no document of that format, or is damaged, encrypted or too large.
    """
    if source_format is SourceFormat.PYTHON:
        yield from _python(path, name)
        return
    blocks = {SourceFormat.PDF: _pdf, SourceFormat.DOCX: _docx, SourceFormat.HTML: _html}[source_format]
    for part, (place, text) in enumerate(passages(blocks(path)), 1):
        yield place, {"text": text, "file": name, "part": part}


def _pdf(path: Path) -> Iterator[tuple[int, str]]:
    """The pages' text. A page without any is a picture: there is no text recognition here."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(path, strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("is encrypted; save it without a password")
        for number, page in enumerate(reader.pages, 1):
            yield number, page.extract_text()
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as err:
        raise Unreadable(f"cannot be read as PDF ({type(err).__name__}); it may be damaged") from err


def _docx(path: Path) -> Iterator[tuple[int, str]]:
    """Paragraphs, headings and tables in their order; a row of a table is a line."""
    from docx import Document
    from docx.opc.exceptions import OpcError
    from docx.table import Table

    try:
        _check_docx(path)
        document: Any = Document(str(path))
        for number, block in enumerate(document.iter_inner_content(), 1):
            if isinstance(block, Table):
                yield number, "\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows)
            elif block.style is not None and block.style.name.startswith("Heading "):
                level = min(6, int(block.style.name.removeprefix("Heading ")))
                yield number, f"{'#' * level} {block.text.strip()}"
            else:
                yield number, block.text
    except (OpcError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, SyntaxError, OSError) as err:
        raise Unreadable(f"cannot be read as DOCX ({type(err).__name__}); it may be damaged") from err


def _check_docx(path: Path) -> None:
    """A DOCX file is a ZIP archive, and may be one that is made to fill memory."""
    with zipfile.ZipFile(path) as archive:
        declared = sum(member.file_size for member in archive.infolist())
    if declared > min(MAX_DOCX_BYTES, max(64 << 20, MAX_DOCX_RATIO * path.stat().st_size)):
        raise Unreadable(f"unpacks to {declared} bytes, which is too much; save it in parts")


def _html(path: Path) -> Iterator[tuple[int, str]]:
    if path.stat().st_size > MAX_HTML_BYTES:
        raise Unreadable(f"is larger than {MAX_HTML_BYTES} bytes; save it in parts")
    yield from enumerate(text_of_markup(_decoded(path)).split("\n"), 1)


def _python(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    from mainspring_pysource import entries_of

    if path.stat().st_size > MAX_PYTHON_BYTES:
        raise Unreadable(f"is larger than {MAX_PYTHON_BYTES} bytes")
    try:
        for entry in entries_of(_decoded(path), name):
            yield entry.line, {"file": name, "name": entry.name, "text": entry.text, "summary": entry.summary}
    except (SyntaxError, ValueError) as err:
        raise Unreadable(f"cannot be parsed as Python 3.11: {getattr(err, 'msg', 'it holds NUL characters')}") from err


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as err:
        raise Unreadable("is not UTF-8 text; save it as UTF-8") from err
