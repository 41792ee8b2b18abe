"""What rules search with.

A finder looks for matches in a text that may still grow. `undecided` says from where on more text could change what
it finds, so that everything before can go; what it finds before that place stays found wherever the text was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import re2

from mainspring_guards.folding import folded
from mainspring_guards.patterns import PatternRefused, compile_pattern, longest_match

MAX_HELD_BACK = 1000
"""Most characters of an answer that a rule may have a door hold back."""

Span = tuple[int, int]


class Finder(Protocol):
    """Finds what a rule is about."""

    def find(self, text: str, start: int) -> Span | None:
        """The first match that begins at or after `start`."""
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
        self._pattern = compile_pattern("|".join(map(re2.escape, self._texts)))
        begun = {text[:length] for text in self._texts for length in range(1, len(text))}
        # Whether a text that ends here is a whole word, the next character says.
        self._begun = begun | set(self._texts) if whole_words else begun
        self._longest = max(map(len, self._begun), default=0)

    def find(self, text: str, start: int) -> Span | None:
        while (found := self._pattern.search(text, start)) is not None:
            at = found.start()
            if not self._whole:
                return at, found.end()
            for each in self._texts:
                if text.startswith(each, at) and _stands_alone(text, at, at + len(each)):
                    return at, at + len(each)
            start = at + 1
        return None

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
        for each in expressions:
            try:
                compiled = compile_pattern(each, ignore_case=not exact)
            except PatternRefused as err:
                raise PatternRefused(f"{each!r} is not an expression: {err}") from err
            length = longest_match(each)
            if length == 0 or compiled.search("") is not None:
                raise PatternRefused(f"{each!r} finds the empty text, which is everywhere")
            if bounded and (length is None or length > MAX_HELD_BACK):
                said = "has no longest match" if length is None else f"has matches of up to {length} characters"
                message = (
                    f"{each!r} {said}, and doors hold back at most {MAX_HELD_BACK} characters of an answer; "
                    r"count what repeats, for example `\S{1,64}` in place of `\S+`"
                )
                raise PatternRefused(message)
            longest = None if longest is None or length is None else max(longest, length)
        self._longest = longest
        self._pattern = compile_pattern("|".join(f"(?:{each})" for each in expressions), ignore_case=not exact)

    def find(self, text: str, start: int) -> Span | None:
        found: Any
        for found in self._pattern.finditer(text, start):
            if found.end() > found.start():
                return found.start(), found.end()
        return None

    def undecided(self, text: str, start: int) -> int:
        # `\b` and `$` look at the character after the match.
        return start if self._longest is None else max(start, len(text) - self._longest)


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (text[start - 1 : start].isalnum() if start else False) and not text[end : end + 1].isalnum()
