"""Reads plain text and Markdown, UTF-8: paragraphs, put together to passages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from mainspring_data_ingest.adapters.lines import TOO_LONG, begin, lines
from mainspring_data_ingest.adapters.passages import MAX_CHARACTERS, passages
from mainspring_data_ingest.domain.records import EXCERPT_BYTES, NOT_UTF8, Record

_BLOCK_BYTES = 4 * MAX_CHARACTERS
"""A longer paragraph is passed on in parts, so that a file without blank lines is read in bounded memory."""


class TextReader:
    """A text file. Columns: `text`, `file` (its name), `part` (number of the passage)."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Takes the file and what its owner calls it."""
        self._file, self._name = file, name

    def records(self) -> Iterator[Record]:
        """See `SourceReader`. Lines that are no text are records of their own, which cannot be read."""
        begin(self._file)
        broken: list[Record] = []
        for part, (line, text) in enumerate(passages(self._paragraphs(broken)), 1):
            yield from broken
            broken.clear()
            values = {"text": text, "file": self._name, "part": part}
            yield Record(line, text[:EXCERPT_BYTES].encode(), values)
        yield from broken

    def _paragraphs(self, broken: list[Record]) -> Iterator[tuple[int, str]]:
        first, held, size = 1, list[str](), 0
        for number, data, too_long in lines(self._file):
            try:
                text = data.decode() if not too_long else ""
            except UnicodeDecodeError:
                text = ""
                broken.append(Record(number, data[:EXCERPT_BYTES], {}, NOT_UTF8))
            if too_long:
                broken.append(Record(number, data[:EXCERPT_BYTES], {}, TOO_LONG))
            text = text.rstrip()
            if held and (not text or size > _BLOCK_BYTES):
                yield first, "\n".join(held)
                held, size = [], 0
            if text:
                first = first if held else number
                held.append(text)
                size += len(text)
        if held:
            yield first, "\n".join(held)
