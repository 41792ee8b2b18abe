"""Documents as they come in: one JSON object on each line of a file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mainspring_svckit.errors import PreconditionFailed

MAX_LINE_BYTES = 16 << 20
MAX_ID_CHARACTERS = 500
MAX_REFUSED_SHARE = 0.1


class Refusal(StrEnum):
    """Why a line is not in an index."""

    NOT_UTF8 = "NOT_UTF8"
    NOT_JSON = "NOT_JSON"
    NOT_TEXT = "NOT_TEXT"
    NO_ID = "NO_ID"
    NO_TEXT = "NO_TEXT"
    TOO_LONG = "TOO_LONG"
    DUPLICATE_ID = "DUPLICATE_ID"


class LineRefused(Exception):
    """The line holds no document."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True)
class Document:
    """Something to be searched; `title` and `uri` may be empty."""

    id: str
    title: str
    uri: str
    text: str


def parse_line(line: bytes) -> Document:
    """Reads a line.

    Raises:
        LineRefused: It holds no document.
    """
    if len(line) > MAX_LINE_BYTES:
        raise LineRefused(Refusal.TOO_LONG)
    try:
        decoded = line.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise LineRefused(Refusal.NOT_UTF8) from err
    try:
        value: Any = json.loads(decoded)
    except (ValueError, RecursionError) as err:
        raise LineRefused(Refusal.NOT_JSON) from err
    if not isinstance(value, dict):
        raise LineRefused(Refusal.NOT_JSON)
    fields = {name: _text(value.get(name)) for name in ("id", "title", "uri", "text")}
    if not fields["id"].strip() or len(fields["id"]) > MAX_ID_CHARACTERS:
        raise LineRefused(Refusal.NO_ID)
    if not fields["text"].strip():
        raise LineRefused(Refusal.NO_TEXT)
    return Document(**fields)


def _text(value: Any) -> str:
    """A field as text that can be stored; missing is empty, and numbers are not refused as ids."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise LineRefused(Refusal.NOT_TEXT)
    try:
        value.encode()
    except UnicodeEncodeError as err:
        raise LineRefused(Refusal.NOT_TEXT) from err  # Half of a surrogate pair.
    return value.replace("\x00", "\ufffd")


@dataclass
class Survey:
    """What a file of documents holds; filled line by line."""

    lines: int = 0
    documents: int = 0
    chunks: int = 0
    refusals: Counter[Refusal] = field(default_factory=Counter[Refusal])
    first_refused_line: int = 0

    def refuse(self, number: int, reason: Refusal) -> None:
        """Counts a line that is left out."""
        self.refusals[reason] += 1
        self.first_refused_line = self.first_refused_line or number

    @property
    def words(self) -> str:
        """The refusals in words; empty when there are none."""
        if not self.refusals:
            return ""
        reasons = ", ".join(f"{reason.value} {count}" for reason, count in self.refusals.most_common())
        refused = self.refusals.total()
        return f"{refused} of {self.lines} lines refused ({reasons}; the first is line {self.first_refused_line})"

    def check(self) -> None:
        """Whether an index may be made of it.

        Raises:
            PreconditionFailed: NO_DOCUMENTS, or TOO_MANY_LINES_REFUSED: more than `MAX_REFUSED_SHARE` of the lines.
        """
        wanted = "each line must be a JSON object with the texts id and text, and optionally title and uri"
        if not self.documents:
            message = f"the file holds no documents: {self.words or 'it is empty'}; {wanted}"
            raise PreconditionFailed("NO_DOCUMENTS", message)
        if self.refusals.total() > MAX_REFUSED_SHARE * self.lines:
            raise PreconditionFailed("TOO_MANY_LINES_REFUSED", f"{self.words}; {wanted}")
