"""Physical lines of a file in bounded memory, and what can be told of a file by its first bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mainspring_svckit.errors import InvalidInput

MAX_RECORD_BYTES = 16 << 20
"""Longest record that is read; a longer one is refused and passed over without being held in memory."""
TOO_LONG = f"is longer than {MAX_RECORD_BYTES} bytes"
_BOM = b"\xef\xbb\xbf"
_SAMPLE_BYTES = 64 << 10
_KEPT_OF_TOO_LONG = 4096
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_SIGNATURES = {
    b"PK\x03\x04": "a ZIP archive (or a spreadsheet, which is one)",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"%PDF-": "PDF",
    b"SQLite format 3": "an SQLite database",
}


class Line(NamedTuple):
    """One line with its number from 1; of one that is too long only the beginning."""

    number: int
    data: bytes
    too_long: bool = False


def begin(file: BinaryIO) -> None:
    """Looks at the first bytes, and stands behind a byte order mark.

    Raises:
        InvalidInput: The file is empty, or is not UTF-8 text.
    """
    sample = file.read(_SAMPLE_BYTES)
    file.seek(len(_BOM) if sample.startswith(_BOM) else 0)
    if not sample.removeprefix(_BOM):
        raise InvalidInput("is empty; upload a file with data", reason="SOURCE_EMPTY")
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidInput("is UTF-16 or UTF-32; save it as UTF-8 and upload it again", reason="SOURCE_NOT_UTF8")
    for signature, kind in _SIGNATURES.items():
        if sample.startswith(signature):
            message = f"is {kind}, not text; name its format, or convert it to JSON Lines or CSV in UTF-8"
            raise InvalidInput(message, reason="SOURCE_NOT_TEXT")
    controls = len(_CONTROLS.findall(sample))
    # A few stray control characters are a matter of their rows; many are another encoding, or no text at all.
    if controls > 32 and controls * 20 > len(sample):
        message = "is binary, or text in UTF-16; save it as JSON Lines or CSV in UTF-8 and upload that"
        raise InvalidInput(message, reason="SOURCE_NOT_TEXT")


def lines(file: BinaryIO) -> Iterator[Line]:
    """The lines from where the file stands, their ends included."""
    number = 0
    while data := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(data) <= MAX_RECORD_BYTES or data.endswith(b"\n"):
            yield Line(number, data)
            continue
        data = data[:_KEPT_OF_TOO_LONG]
        while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
            pass
        yield Line(number, data, too_long=True)
