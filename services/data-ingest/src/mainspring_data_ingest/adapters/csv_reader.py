"""Reads CSV as RFC 4180 describes it: commas (or tabs), quotes, a header line, UTF-8.

A quote that is never closed would swallow all rows after it. So a record that turns out to be broken costs its first
line only: that line is refused, and reading begins anew with the next one.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from mainspring_data_ingest.adapters.lines import MAX_RECORD_BYTES, TOO_LONG, Line, begin, lines
from mainspring_data_ingest.domain.records import EXCERPT_BYTES, NOT_UTF8, Record
from mainspring_svckit.errors import InvalidInput


class CsvReader:
    """A CSV or TSV file."""

    def __init__(
        self, file: BinaryIO, columns: Sequence[str], optional: Sequence[str] = (), *, delimiter: str = ","
    ) -> None:
        """Takes the file, the columns that its header must name, and those that it may; each at most once."""
        self._file, self._columns, self._optional, self._delimiter = file, columns, optional, delimiter

    def records(self) -> Iterator[Record]:
        """See `SourceReader`."""
        begin(self._file)
        csv.field_size_limit(MAX_RECORD_BYTES)
        feed = _Feed(lines(self._file))
        parsed = _parsed(feed, self._delimiter)
        header = self._header(parsed)
        for first, raw, fields, problem in parsed:
            if problem:
                yield Record(first, raw, {}, problem)
            elif len(fields) > len(header):
                yield Record(first, raw, {}, f"has {len(fields)} fields; the header has {len(header)}")
            elif fields:
                yield Record(first, raw, dict(zip(header, fields, strict=False)))

    def _header(self, parsed: Iterator[_Parsed]) -> list[str]:
        """The names of the columns.

        Raises:
            InvalidInput: There is no header that can be read, or it lacks a column, or has one twice.
        """
        header: list[str] = []
        for _, _, header, problem in parsed:
            if problem == NOT_UTF8:
                message = "has a header that is not UTF-8; save the file as UTF-8 and upload it again"
                raise InvalidInput(message, reason="SOURCE_NOT_UTF8")
            if problem:
                message = f"has a first line that cannot be read: it {problem}; the first line must name the columns"
                raise InvalidInput(message, reason="SOURCE_UNREADABLE")
            if header:
                break
        if not header:
            raise InvalidInput("is empty; upload a file with data", reason="SOURCE_EMPTY")
        shown = ", ".join(repr(name[:60]) for name in header[:20])
        for column in (*self._columns, *self._optional):
            if header.count(column) > 1:
                message = f"has the column {column!r} twice; rename one of them"
                raise InvalidInput(message, reason="SOURCE_REPEATS_COLUMN")
        for column in self._columns:
            if column in header:
                continue
            hint = "name its columns in the recipe or in the source"
            if len(header) == 1 and any(sign in header[0] for sign in ",;\t"):
                hint = f"save it with {'commas' if self._delimiter == ',' else 'tabs'} between the columns"
            message = f"has no column {column!r} in its header, which names {shown}; {hint}"
            raise InvalidInput(message, reason="SOURCE_LACKS_COLUMN")
        return header


_Parsed = tuple[int, bytes, list[str], str]
"""Number of the first line, first bytes, fields, and the problem of a record that cannot be read."""


class _Feed:
    """Hands lines to the csv module, and takes back those of a record that turned out to be broken."""

    def __init__(self, source: Iterator[Line]) -> None:
        self._source = source
        self._again: deque[Line] = deque()
        self._bytes = 0
        # A file whose every line opens a quote would be read once per line. So no more is read again than was read
        # anew, and a bit; after that a record must end on its line.
        self._credit = 4 * MAX_RECORD_BYTES
        self.taken: list[Line] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line of the record; ends where no record may be longer."""
        if self.taken and (self._bytes > MAX_RECORD_BYTES or self._credit < 0):
            raise StopIteration
        if self._again:
            line = self._again.popleft()
        else:
            line = next(self._source)
            self._credit += len(line.data)
        self.taken.append(line)
        self._bytes += len(line.data)
        if line.too_long:
            raise StopIteration
        # Bytes that are not UTF-8 become what no file can hold, and are looked for afterwards.
        return line.data.decode(errors="surrogateescape")

    def start(self) -> None:
        """A new record begins."""
        self.taken, self._bytes = [], 0

    def give_back(self) -> None:
        """All lines but the first are read again."""
        self._again.extendleft(reversed(self.taken[1:]))
        self._credit -= self._bytes - len(self.taken[0].data)


def _parsed(feed: _Feed, delimiter: str) -> Iterator[_Parsed]:
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.start()
        fields: list[str] = []
        problem = ""
        try:
            fields = next(reader)
        except StopIteration:
            if not feed.taken:
                return
            problem = TOO_LONG
        except csv.Error as err:
            problem = f"is not CSV: {err}"
            feed.give_back()
        first = feed.taken[0]
        if problem:
            problem = problem if _is_utf8([first]) else NOT_UTF8
            yield first.number, first.data[:EXCERPT_BYTES], [], problem
        else:
            raw = b"".join(line.data for line in feed.taken)[:EXCERPT_BYTES]
            yield first.number, raw, fields, "" if _is_utf8(feed.taken) else NOT_UTF8


def _is_utf8(taken: Sequence[Line]) -> bool:
    try:
        for line in taken:
            line.data.decode()
    except UnicodeDecodeError:
        return False
    return True
