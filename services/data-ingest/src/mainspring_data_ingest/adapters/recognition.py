"""Tells formats by names and by first bytes."""

from __future__ import annotations

from pathlib import Path, PurePath

from mainspring_data_ingest.adapters.unpacking import packed_beginning
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_svckit.errors import InvalidInput

ENDINGS = {
    ".jsonl": SourceFormat.JSONL,
    ".ndjson": SourceFormat.JSONL,
    ".json": SourceFormat.JSON,
    ".csv": SourceFormat.CSV,
    ".tsv": SourceFormat.TSV,
    ".tab": SourceFormat.TSV,
    ".parquet": SourceFormat.PARQUET,
    ".arrow": SourceFormat.ARROW,
    ".feather": SourceFormat.ARROW,
    ".txt": SourceFormat.TEXT,
    ".md": SourceFormat.MARKDOWN,
    ".markdown": SourceFormat.MARKDOWN,
    ".html": SourceFormat.HTML,
    ".htm": SourceFormat.HTML,
    ".pdf": SourceFormat.PDF,
    ".docx": SourceFormat.DOCX,
    ".py": SourceFormat.PYTHON,
    ".zip": SourceFormat.ZIP,
}
_PACKED = (".gz", ".gzip", ".zst", ".zstd")
_SIGNATURES = {
    b"PAR1": SourceFormat.PARQUET,
    b"ARROW1": SourceFormat.ARROW,
    b"\xff\xff\xff\xff": SourceFormat.ARROW,
    b"%PDF-": SourceFormat.PDF,
}
_ZIP = b"PK\x03\x04"
_DOCX_MEMBER = b"[Content_Types].xml"
_HTML = (b"<!doctype html", b"<html")


def recognised(path: Path, name: str, title: str) -> SourceFormat:
    """The format of a file; of a packed one, that of what is packed in it.

    Args:
        path: Where it is.
        name: What its owner calls it.
        title: Names it in messages.

    Raises:
        InvalidInput: SOURCE_FORMAT_UNKNOWN.
    """
    begins = packed_beginning(path)
    for signature, found in _SIGNATURES.items():
        if begins.startswith(signature):
            return found
    named = PurePath(name.lower())
    if named.suffix in _PACKED:
        named = named.with_suffix("")
    if begins.startswith(_ZIP):
        return SourceFormat.DOCX if named.suffix == ".docx" or _DOCX_MEMBER in begins[:200] else SourceFormat.ZIP
    text = begins.removeprefix(b"\xef\xbb\xbf").lstrip()
    if named.suffix == ".json" and text.startswith(b"{"):
        return SourceFormat.JSONL
    if named.suffix in ENDINGS:
        return ENDINGS[named.suffix]
    if text.startswith(b"{"):
        return SourceFormat.JSONL
    if text.startswith(b"["):
        return SourceFormat.JSON
    if text[:200].lower().startswith(_HTML):
        return SourceFormat.HTML
    message = f"{title}: neither its name nor its first bytes tell the format; name it with {', '.join(ENDINGS)}"
    raise InvalidInput(message, reason="SOURCE_FORMAT_UNKNOWN")
