"""Reads JSON Lines: one object a line, UTF-8; blank lines are no rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import orjson

from mainspring_data_ingest.adapters.lines import TOO_LONG, begin, lines
from mainspring_data_ingest.domain.records import NOT_UTF8, Record


class JsonlReader:
    """A JSON Lines file."""

    def __init__(self, file: BinaryIO, columns: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Takes the file, and the columns that must not come twice in an object."""
        self._file = file
        self._watched = [json.dumps(column, ensure_ascii=False).encode() for column in (*columns, *optional)]

    def records(self) -> Iterator[Record]:
        """See `SourceReader`."""
        begin(self._file)
        for number, data, too_long in lines(self._file):
            if too_long:
                yield Record(number, data, {}, TOO_LONG)
            elif not data.isspace():
                values, problem = self._read(data)
                yield Record(number, data, values, problem)

    def _read(self, data: bytes) -> tuple[dict[str, Any], str]:
        """The object on a line, or why there is none."""
        try:
            # Strict where it matters: no NaN, no infinities, no halves of surrogate pairs, at most 1,024 levels deep.
            value = orjson.loads(data)
        except orjson.JSONDecodeError as err:
            return {}, f"is not JSON: {err.msg} at column {err.colno}" if _is_utf8(data) else NOT_UTF8
        if not isinstance(value, dict):
            return {}, "is JSON, but not an object with columns"
        if any(data.count(column) > 1 for column in self._watched) and _has_repeated_keys(data):
            return {}, "has a column twice, so that it is not clear which one counts"
        return value, ""


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_repeated_keys(data: bytes) -> bool:
    """Whether the object on a line has a key twice; slow, so only for lines that look like it."""
    repeated = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        found = dict(pairs)
        repeated = len(found) < len(pairs)  # The outermost object is looked at last.
        return found

    try:
        json.loads(data, object_pairs_hook=look)
    except RecursionError:
        return True
    return repeated
