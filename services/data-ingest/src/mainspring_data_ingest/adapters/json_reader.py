"""Reads a JSON array of objects, an element at a time and in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from mainspring_data_ingest.adapters.jsonl import JsonlReader
from mainspring_data_ingest.adapters.lines import MAX_RECORD_BYTES, TOO_LONG, begin
from mainspring_data_ingest.domain.records import EXCERPT_BYTES, Record
from mainspring_svckit.errors import InvalidInput

_CHUNK = 1 << 20
_STRUCTURE = re.compile(rb'[\[\]{},"]')
_STRING_END = re.compile(rb'\\.?|"', re.DOTALL)


class JsonArrayReader(JsonlReader):
    """A JSON file that is an array of objects; `line` is the number of the element.

    Elements are told apart by brackets and quotes alone, so a broken element costs itself only, as long as these are in
    order.
    """

    def __init__(self, file: BinaryIO, columns: Sequence[str], optional: Sequence[str] = ()) -> None:
        super().__init__(file, columns, optional)

    def records(self) -> Iterator[Record]:
        """See `SourceReader`."""
        begin(self._file)
        for number, data in enumerate(_elements(self._file), 1):
            if data is None or len(data) > MAX_RECORD_BYTES:
                yield Record(number, (data or b"")[:EXCERPT_BYTES], {}, TOO_LONG)
            else:
                values, problem = self._read(data)
                yield Record(number, data[:EXCERPT_BYTES], values, problem)


def _elements(file: BinaryIO) -> Iterator[bytes | None]:
    """The bytes of each element; None for one that is too long.

    Raises:
        InvalidInput: SOURCE_UNREADABLE, it is no array, or ends within one.
    """
    scan = _Scan(file)
    if scan.skip_space() != b"[":
        raise _unreadable("does not begin with '['; a file with one object a line is JSON Lines")
    scan.position += 1
    if scan.skip_space() == b"]":
        return
    while True:
        element, end = scan.element()
        yield element
        if end == b"]":
            break
    if scan.skip_space():
        raise _unreadable("goes on after the end of its array")


class _Scan:
    """A window over a file, which moves on as elements are taken out of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._window = file, b""
        self.position = 0

    def skip_space(self) -> bytes:
        """Moves to the next byte that is no white space, and returns it; nothing at the end."""
        while True:
            rest = self._window[self.position :].lstrip()
            if rest:
                self.position = len(self._window) - len(rest)
                return rest[:1]
            self._window, self.position = self._file.read(_CHUNK), 0
            if not self._window:
                return b""

    def element(self) -> tuple[bytes | None, bytes]:
        """The bytes up to the comma or bracket that ends the element, and that; moves behind it."""
        start = at = self.position
        depth, in_string, too_long = 0, False, False
        while True:
            found = (_STRING_END if in_string else _STRUCTURE).search(self._window, at)
            # An escape at the very end may go on in the next chunk.
            if found is None or (in_string and found.group() == b"\\"):
                at = found.start() if found is not None else len(self._window)
                if too_long or len(self._window) - start > MAX_RECORD_BYTES:
                    start, too_long = at, True  # What was held of it is let go.
                at, start = self._more(start, at), 0
                continue
            at, sign = found.end(), found.group()
            if in_string:
                in_string = sign != b'"'
            elif sign == b'"':
                in_string = True
            elif sign in b"[{":
                depth += 1
            elif depth and sign in b"]}":
                depth -= 1
            elif not depth and sign in b",]":
                self.position = at
                data = self._window[start : found.start()]
                return (None if too_long else data.strip()), sign

    def _more(self, start: int, at: int) -> int:
        """Reads on, and drops what lies before `start`; returns where `at` is then."""
        chunk = self._file.read(_CHUNK)
        if not chunk:
            raise _unreadable("ends within its array; it may be cut short")
        self._window = self._window[start:] + chunk
        return at - start


def _unreadable(what: str) -> InvalidInput:
    return InvalidInput(f"cannot be read as a JSON array: it {what}", reason="SOURCE_UNREADABLE")
