"""Texts as people would compare them: by their words, whatever the case, punctuation and white space."""

from __future__ import annotations

import re
import unicodedata

_WORDS = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, folded."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORDS.findall(text.casefold())


def runs_of(words: list[str], size: int) -> set[str]:
    """Every `size` words in a row; a shorter text is one run of all its words."""
    if len(words) <= size:
        return {" ".join(words)} if words else set()
    return set(map(" ".join, zip(*(words[start:] for start in range(size)), strict=False)))
