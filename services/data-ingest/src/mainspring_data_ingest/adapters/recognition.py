"""Tells formats by names and by first bytes."""

from __future__ import annotations

from pathlib import Path, PurePath

from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_svckit.errors import InvalidInput

ENDINGS = {
    ".jsonl": SourceFormat.JSONL,
    ".ndjson": SourceFormat.JSONL,
    ".csv": SourceFormat.CSV,
    ".parquet": SourceFormat.PARQUET,
    ".arrow": SourceFormat.ARROW,
}
_SIGNATURES = {b"PAR1": SourceFormat.PARQUET, b"ARROW1": SourceFormat.ARROW}


def recognised(path: Path, name: str, title: str) -> SourceFormat:
    """The format of a file.

    Args:
        path: Where it is.
        name: What its owner calls it.
        title: Names it in messages.

    Raises:
        InvalidInput: SOURCE_FORMAT_UNKNOWN.
    """
    with path.open("rb") as file:
        begins = file.read(16)
    for signature, found in _SIGNATURES.items():
        if begins.startswith(signature):
            return found
    ending = PurePath(name.lower()).suffix
    if ending in ENDINGS:
        return ENDINGS[ending]
    if begins.lstrip().startswith(b"{"):
        return SourceFormat.JSONL
    message = f"{title}: neither its name nor its first bytes tell the format; name it with {', '.join(ENDINGS)}"
    raise InvalidInput(message, reason="SOURCE_FORMAT_UNKNOWN")
