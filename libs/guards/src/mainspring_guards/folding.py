"""Text as rules compare it: without regard to case, width, accents, invisible characters and how much white space.

Folding goes character by character, so a text folds to the same wherever it is cut; only a run of white space needs
the character before. Each folded character knows which character of the text it is from.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_SPACES = dict.fromkeys(map(ord, "\t\n\v\f\r\x1c\x1d\x1e\x1f"), " ")
_HIDDEN = {code: None for code in (*range(32), 127) if code not in _SPACES}
_LOWER = {code: chr(code + 32) for code in range(ord("A"), ord("Z") + 1)}
_ASCII = {**_SPACES, **_HIDDEN, **_LOWER}
# Letters and symbols by their category, and yet nothing to see.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# Marks that stand on letters to change their looks. Marks of other scripts, such as the voicing of kana or vowels of
# Hebrew, make another letter or word and stay.
_MARKS = ((0x300, 0x36F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE00, 0xFE2F), (0xE0100, 0xE01EF))


@lru_cache(maxsize=4096)
def fold_character(character: str) -> str:
    """What a character is compared as; empty for one that cannot be seen."""
    if character.isascii():
        return character.translate(_ASCII)
    if character in _BLANK:
        return ""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    seen = "".join(" " if each.isspace() else each for each in folded if not _is_invisible(each))
    return unicodedata.normalize("NFC", seen)


def _is_invisible(character: str) -> bool:
    if unicodedata.category(character) in {"Cf", "Cc"} and not character.isspace():
        return True
    code = ord(character)
    return any(low <= code <= high for low, high in _MARKS)


class View:
    """The part of a growing text that is still looked at, as a rule compares it.

    Places in it count from the beginning of the whole compared text.

    Attributes:
        text: The compared text from place `base` on.
        base: Place of the first character in `text`.
        length: Characters of the original text that were added.
    """

    def __init__(self, *, exact: bool) -> None:
        self.text, self.base, self.length = "", 0, 0
        self._exact = exact
        self._origins: list[int] = []

    @property
    def end(self) -> int:
        """The place after the last compared character."""
        return self.base + len(self.text)

    def add(self, piece: str) -> None:
        """Appends to the original text."""
        start, self.length = self.length, self.length + len(piece)
        if self._exact:
            self.text += piece
            return
        plain = piece.translate(_ASCII) if piece.isascii() else ""
        if len(plain) == len(piece) and "  " not in plain and not (plain[:1] == " " and self.text[-1:] == " "):
            self.text += plain
            self._origins.extend(range(start, self.length))
            return
        spaced, folded = self.text[-1:] == " ", list[str]()
        for index, character in enumerate(piece, start=start):
            for each in fold_character(character):
                if each == " " and spaced:
                    continue
                spaced = each == " "
                folded.append(each)
                self._origins.append(index)
        self.text += "".join(folded)

    def original(self, place: int) -> int:
        """Where in the original text a compared character is from; its end for the place after the last one."""
        if place >= self.end:
            return self.length
        return place if self._exact else self._origins[place - self.base]

    def forget(self, place: int) -> None:
        """Drops what stands before a place."""
        drop = place - self.base
        if drop > 0:
            self.text, self.base = self.text[drop:], place
            del self._origins[:drop]


def folded(text: str) -> str:
    """A whole text as it is compared."""
    view = View(exact=False)
    view.add(text)
    return view.text
