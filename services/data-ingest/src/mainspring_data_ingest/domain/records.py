"""What readers make of a source's bytes, and what is kept of a record that is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

EXCERPT_CHARACTERS = 500
EXCERPT_BYTES = 4 * EXCERPT_CHARACTERS
SOURCE_GONE = -1
"""Stands for the position of a source that an erasure removed as a whole."""
NOT_UTF8 = "is not UTF-8 text"
"""The problem of a record with bytes that are not UTF-8; many of them mean that the whole file is encoded otherwise."""


class RefusalReason(StrEnum):
    """Why an input row is not in a version."""

    UNREADABLE = "UNREADABLE"
    MISSING_COLUMN = "MISSING_COLUMN"
    NOT_TEXT = "NOT_TEXT"
    EMPTY = "EMPTY"
    EXACT_DUPLICATE = "EXACT_DUPLICATE"
    TOO_LONG = "TOO_LONG"
    WRONG_LANGUAGE = "WRONG_LANGUAGE"
    WRONG_LENGTH = "WRONG_LENGTH"
    LOW_QUALITY = "LOW_QUALITY"
    PERSONAL_DATA = "PERSONAL_DATA"
    NEAR_DUPLICATE = "NEAR_DUPLICATE"
    EVALUATION_LEAK = "EVALUATION_LEAK"
    SECRET = "SECRET"  # noqa: S105 - the name of a reason.
    LISTED_WORD = "LISTED_WORD"
    OVER_REPRESENTED = "OVER_REPRESENTED"
    ERASED = "ERASED"


@dataclass(frozen=True, slots=True)
class StepPlace:
    """A step that something became of a row in.

    Attributes:
        name: Its kind, as reports name it.
        number: Its place among the recipe's steps, from 1; 0 for what is done without a step of the recipe.
    """

    name: str
    number: int = 0


UNKNOWN_STEP = StepPlace("")
"""Stands where an older release did not write the step down."""
READING = StepPlace("reading")
EXACT_DUPLICATES = StepPlace("exact_duplicates")
SPLITS = StepPlace("splits")


class RowRefused(Exception):
    """A record cannot be a row; `detail` says what exactly is wrong, `step` where that was seen."""

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.step = reason, detail, READING


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a source.

    Attributes:
        line: Line of the source on which it begins, from 1.
        raw: Its first bytes, for the excerpt.
        values: Its fields by column; empty when it could not be read.
        problem: Why it could not be read; empty when it could.
    """

    line: int
    raw: bytes
    values: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True)
class RefusedRow:
    """One input row that is not in the version, with what a person needs to mend it."""

    source_index: int
    line: int
    reason: RefusalReason
    detail: str
    excerpt: str
    step: StepPlace = UNKNOWN_STEP


@dataclass(frozen=True)
class ChangedRow:
    """One row of a version that steps have changed, and which ones."""

    source_index: int
    line: int
    row_id: str
    steps: tuple[StepPlace, ...]


def excerpt(raw: bytes) -> str:
    """The beginning of a record for people: what is not printable is escaped, so that it cannot act on a screen."""
    text = raw[:EXCERPT_BYTES].decode(errors="backslashreplace")[:EXCERPT_CHARACTERS].rstrip("\r\n")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
