"""Regular expressions in RE2's syntax: compiled without exceptions that wait for a text, and how long a match can be.

RE2 searches in time linear in the text whatever the pattern is, so no pattern can hold a door up. It does not say how
long a match can be; that is read from the pattern here, since a door must know how much of an answer to hold back.
What RE2 takes and this reader does not know is taken to have no longest match.
"""

from __future__ import annotations

from typing import Any

import re2

MAX_MEMORY_BYTES = 2 << 20
"""What one pattern may take; lists of texts and alternatives of a rule take what they need of more."""
MAX_LIST_MEMORY_BYTES = 16 << 20
_ONE_CHARACTER = frozenset("dDsSwWaftnrvC")
_NO_CHARACTER = frozenset("bBAz")


class PatternRefused(ValueError):
    """RE2 does not take the pattern; says why."""


def compile_pattern(pattern: str, *, ignore_case: bool = False, max_memory_bytes: int = MAX_MEMORY_BYTES) -> Any:
    """RE2's form of a pattern.

    Raises:
        PatternRefused: It is not RE2's syntax, or too large.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = max_memory_bytes
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(pattern, options)
    except re2.error as err:
        said = err.args[0] if err.args else err
        raise PatternRefused(said.decode(errors="replace") if isinstance(said, bytes) else str(said)) from err


def longest_match(pattern: str) -> int | None:
    """Most characters that a match of a pattern, which RE2 takes, can have; None when there is no such number."""
    try:
        reader = _Reader(pattern)
        width = reader.alternatives()
        return None if reader.rest else width
    except (_NotKnown, RecursionError):
        return None


class _NotKnown(Exception):
    """The reader does not know this piece of syntax."""


class _Reader:
    """Reads a pattern from left to right; each method reads one construct and returns its longest match."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0

    @property
    def rest(self) -> str:
        """What is not read yet."""
        return self._pattern[self._at :]

    def alternatives(self) -> int | None:
        widths = [self._sequence()]
        while self._took("|"):
            widths.append(self._sequence())
        return _most(widths)

    def _sequence(self) -> int | None:
        total: int | None = 0
        while self.rest and self.rest[0] not in "|)":
            width = self._repeated(self._atom())
            total = None if total is None or width is None else total + width
        return total

    def _repeated(self, width: int | None) -> int | None:
        while self.rest[:1] and self.rest[0] in "*+?{":
            if self._took("?"):
                continue
            if self._took("*") or self._took("+"):
                width = 0 if width == 0 else None
                continue
            most = self._counted()
            if most is _LITERAL:
                break  # `{` that begins no count stands for itself: the next atom.
            width = 0 if width == 0 else None if width is None or most is None else width * most
        return width

    def _counted(self) -> int | None:
        """The most of `{n}`, `{n,}` and `{n,m}`; `_LITERAL` when it is none of them."""
        body, closed, _ = self.rest[1:].partition("}")
        low, comma, high = body.partition(",")
        if not closed or not (low.isascii() and low.isdigit()) or (high and not (high.isascii() and high.isdigit())):
            return _LITERAL
        self._at += len(body) + 2
        if not comma:
            return int(low)
        return int(high) if high else None

    def _atom(self) -> int | None:
        character = self.rest[0]
        self._at += 1
        match character:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case "\\":
                return self._escape()
            case "^" | "$":
                return 0
            case _:
                return 1

    def _group(self) -> int | None:
        if self._took("?"):
            if self._took("P<") or self._took("<"):
                self._skip_past(">")
            else:
                flags = self._skip_to_any(":)")
                if not set(flags) <= set("imsU-"):
                    raise _NotKnown
                if self._took(")"):
                    return 0  # Flags from here on.
                self._at += 1
        width = self.alternatives()
        if not self._took(")"):
            raise _NotKnown
        return width

    def _class(self) -> int:
        self._took("^")
        self._took("]")
        while not self._took("]"):
            if self._took("[:"):
                self._skip_past(":]")
            elif self._took("\\"):
                self._escape()
            elif self.rest:
                self._at += 1
            else:
                raise _NotKnown
        return 1

    def _escape(self) -> int:
        character = self.rest[:1]
        self._at += 1
        if character in _NO_CHARACTER:
            return 0
        if character in {"p", "P"}:
            if self._took("{"):
                self._skip_past("}")
            else:
                self._at += 1
            return 1
        if character == "x":
            if self._took("{"):
                self._skip_past("}")
            else:
                self._at += 2
            return 1
        if character in _ONE_CHARACTER or (character and not character.isalnum()):
            return 1
        raise _NotKnown  # Octal numbers, `\Q...\E` and whatever comes.

    def _took(self, text: str) -> bool:
        if not self._pattern.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _skip_past(self, text: str) -> None:
        end = self._pattern.find(text, self._at)
        if end < 0:
            raise _NotKnown
        self._at = end + len(text)

    def _skip_to_any(self, ends: str) -> str:
        start = self._at
        while self.rest[:1] and self.rest[0] not in ends:
            self._at += 1
        return self._pattern[start : self._at]


_LITERAL = -1


def _most(widths: list[int | None]) -> int | None:
    known = [width for width in widths if width is not None]
    return max(known) if len(known) == len(widths) else None
