"""What rules search with.

A finder looks for matches in a text that may still grow. `undecided` says from where on more text could change what
it finds, so that everything before can go; what it finds before that place stays found wherever the text was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import re2

from mainspring_guards.compared import as_compared
from mainspring_guards.folding import Span, folded
from mainspring_guards.patterns import (
    MAX_LIST_MEMORY_BYTES,
    PatternRefused,
    compile_pattern,
    longest_match,
)

MAX_HELD_BACK = 1000
"""Most characters of an answer that a rule may have a door hold back."""


class Finder(Protocol):
    """Finds what a rule is about.

    Attributes:
        endless: Whether a match can be so long that it is looked for only when the whole text is there.
        program: Instructions of its patterns in RE2.
    """

    endless: bool
    program: int

    def find_all(self, text: str, start: int) -> Iterator[Span]:
        """The matches at or after `start`, none overlapping another, in their order."""
        ...

    def undecided(self, text: str, start: int) -> int:
        """The first place at or after `start` where a match could begin that more text would make, end or change."""
        ...


class TextFinder:
    """Finds texts of a list, the longest where several begin in one place."""

    def __init__(self, texts: Sequence[str], *, exact: bool, whole_words: bool) -> None:
        """Takes the list.

        Raises:
            PatternRefused: It is too large, or a text has nothing that can be compared.
        """
        compared = {text if exact else folded(text) for text in texts}
        if not all(text.strip() for text in compared):
            raise PatternRefused("a text has no character that can be seen, so it would be found everywhere")
        self._texts = sorted(compared, key=lambda text: (-len(text), text))
        self._whole = whole_words
        any_of = "|".join(map(re2.escape, self._texts))
        self._pattern = compile_pattern(any_of, max_memory_bytes=MAX_LIST_MEMORY_BYTES)
        self.endless, self.program = False, self._pattern.programsize
        begun = {text[:length] for text in self._texts for length in range(1, len(text))}
        # Whether a text that ends here is a whole word, the next character says.
        self._begun = begun | set(self._texts) if whole_words else begun
        self._longest = max(map(len, self._begun), default=0)

    def find_all(self, text: str, start: int) -> Iterator[Span]:
        again: int | None = start
        while again is not None:
            begin, again = again, None
            for found in self._pattern.finditer(text, begin):
                at, goes_on = found.start(), found.end()
                end = self._whole_end(text, at) if self._whole else goes_on
                if end is not None:
                    yield at, end
                # Where another of the texts could stand in what the pattern has passed over.
                after = end if end is not None else at + 1
                while end is None and after < goes_on and text[after - 1].isalnum():
                    after += 1
                if after < goes_on:
                    again = after
                    break

    def _whole_end(self, text: str, at: int) -> int | None:
        ends = (at + len(each) for each in self._texts if text.startswith(each, at))
        return next((end for end in ends if _stands_alone(text, at, end)), None)

    def undecided(self, text: str, start: int) -> int:
        for length in range(min(self._longest, len(text) - start), 0, -1):
            if text[-length:] in self._begun:
                return len(text) - length
        return len(text)


class ExpressionFinder:
    """Finds regular expressions, the first of the list where several begin in one place."""

    def __init__(self, expressions: Sequence[str], *, exact: bool, bounded: bool) -> None:
        """Takes the list; `bounded` where a door must know how much to hold back.

        Raises:
            PatternRefused: One is not RE2's syntax, finds the empty text, or has no longest match although it must.
        """
        longest: int | None = 0
        compared = [each if exact else as_compared(each) for each in expressions]
        for said, each in zip(expressions, compared, strict=True):
            length = self._checked(said, each, ignore_case=not exact, bounded=bounded)
            longest = None if longest is None or length is None else max(longest, length)
        self._longest = longest
        self.endless = longest is None or longest > MAX_HELD_BACK
        any_of = "|".join(f"(?:{each})" for each in compared)
        self._pattern = compile_pattern(any_of, ignore_case=not exact, max_memory_bytes=MAX_LIST_MEMORY_BYTES)
        self.program = self._pattern.programsize

    @staticmethod
    def _checked(said: str, compared: str, *, ignore_case: bool, bounded: bool) -> int | None:
        """The longest match of one expression, None when there is none."""
        try:
            compile_pattern(said)
            compiled = compile_pattern(compared, ignore_case=ignore_case)
        except PatternRefused as err:
            raise PatternRefused(f"{said!r} is not an expression: {err}") from err
        length = longest_match(compared)
        if length == 0 or compiled.search("") is not None:
            raise PatternRefused(f"{said!r} finds the empty text, which is everywhere")
        if bounded and (length is None or length > MAX_HELD_BACK):
            how = "has no longest match" if length is None else f"has matches of up to {length} characters"
            message = (
                f"{said!r} {how}, and doors hold back at most {MAX_HELD_BACK} characters of an answer; "
                r"count what repeats, for example `\S{1,64}` in place of `\S+`"
            )
            raise PatternRefused(message)
        return length

    def find_all(self, text: str, start: int) -> Iterator[Span]:
        found: Any
        for found in self._pattern.finditer(text, start):
            if found.end() > found.start():
                yield found.start(), found.end()

    def undecided(self, text: str, start: int) -> int:
        # `\b` and `$` look at the character after the match.
        return start if self._longest is None else max(start, len(text) - self._longest)


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (text[start - 1 : start].isalnum() if start else False) and not text[end : end + 1].isalnum()
