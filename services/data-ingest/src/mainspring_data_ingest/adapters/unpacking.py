"""Brings a source's bytes into the form that readers take: unpacked, and UTF-8 where a mark says that they are UTF-16.

What comes out is written beside the source, so that readers can seek in it, and is bounded: by a number of bytes, and
by the ratio to what came in, which no data of use exceeds.
"""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from mainspring_svckit.errors import InvalidInput

MAX_UNPACKED_BYTES = 64 << 30
MAX_RATIO = 250
"""JSON Lines of one and the same row pack 200 times; what packs better is made to fill disks."""
FREE_BYTES = 64 << 20
"""So much may come out whatever the ratio."""
_CHUNK = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_LAYERS = 2


class Allowance:
    """How much may come out of a packed file."""

    def __init__(self, packed_bytes: int) -> None:
        self._most = min(MAX_UNPACKED_BYTES, max(FREE_BYTES, MAX_RATIO * packed_bytes))
        self._taken = 0

    def take(self, size: int) -> None:
        """Counts what came out.

        Raises:
            InvalidInput: SOURCE_TOO_LARGE.
        """
        self._taken += size
        if self._taken > self._most:
            message = f"unpacks to more than {self._most} bytes; upload it in parts, or as it is without packing it"
            raise InvalidInput(message, reason="SOURCE_TOO_LARGE")


def unpacked(path: Path) -> Path:
    """The file, or what is packed in it.

    Raises:
        InvalidInput: SOURCE_UNREADABLE, it is damaged or cut short; SOURCE_TOO_LARGE.
    """
    for _ in range(_LAYERS):
        begins = first_bytes(path)
        if begins.startswith(_GZIP):
            path = _written(path, "unpacked", _gzip(path))
        elif begins.startswith(_ZSTD):
            path = _written(path, "unpacked", _zstd(path))
        else:
            break
    return path


def as_utf8(path: Path) -> Path:
    """The file, or its text as UTF-8 where a byte order mark says that it is UTF-16."""
    begins = first_bytes(path)
    if begins.startswith(codecs.BOM_UTF32_LE):
        return path  # Begins as UTF-16 does; whoever reads it says that it is no text.
    for mark, encoding in _MARKS.items():
        if begins.startswith(mark):
            return _written(path, "utf8", _transcoded(path, encoding))
    return path


def packed_beginning(path: Path) -> bytes:
    """The first bytes of a file after unpacking them; what cannot be unpacked stays as it is."""
    begins = first_bytes(path)
    source = _gzip(path) if begins.startswith(_GZIP) else _zstd(path) if begins.startswith(_ZSTD) else None
    if source is None:
        return begins
    try:
        return next(source, b"")
    except InvalidInput:
        return begins


def first_bytes(path: Path, count: int = 4096) -> bytes:
    """The beginning of a file."""
    with path.open("rb") as file:
        return file.read(count)


def _written(path: Path, ending: str, chunks: Iterator[bytes]) -> Path:
    """Writes chunks beside a file; what is there already is kept, since processes may open one source together."""
    target = path.with_name(f"{path.name}.{ending}")
    if target.exists():
        return target
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    allowance = Allowance(path.stat().st_size)
    try:
        with partial.open("wb") as file:
            for chunk in chunks:
                allowance.take(len(chunk))
                file.write(chunk)
        return partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def _gzip(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) as file:
            yield from _chunks(file)  # pyright: ignore[reportArgumentType] - a GzipFile is read like any other.
    except (EOFError, zlib.error, gzip.BadGzipFile) as err:
        raise _damaged("gzip") from err


def _zstd(path: Path) -> Iterator[bytes]:
    try:
        with pa.OSFile(str(path)) as packed, pa.CompressedInputStream(packed, "zstd") as file:
            file_like: Any = file
            yield from _chunks(file_like)
    except OSError as err:
        if err.errno is not None:
            raise
        raise _damaged("Zstandard") from err


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _transcoded(path: Path, encoding: str) -> Iterator[bytes]:
    # Halves of surrogate pairs become bytes that are not UTF-8: readers refuse the lines that hold them.
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    with path.open("rb") as file:
        file.seek(2)
        while chunk := file.read(_CHUNK):
            yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
    try:
        rest = decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        rest = "\N{REPLACEMENT CHARACTER}"
    yield rest.encode("utf-8", "surrogatepass")


def _damaged(kind: str) -> InvalidInput:
    message = f"cannot be unpacked as {kind}: it is damaged or cut short; upload it again"
    return InvalidInput(message, reason="SOURCE_UNREADABLE")
