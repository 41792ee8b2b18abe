"""Text as rules compare it: without regard to case, width, accents, invisible characters and how much white space.

Folding goes character by character, so a text folds to the same wherever it is cut; only a run of white space, and
letters that are written in parts (`か` and its voicing, the sounds of a Hangul syllable), need the character before.
Each folded character knows which characters of the text it is from.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

Span = tuple[int, int]
_SPACES = dict.fromkeys(map(ord, "\t\n\v\f\r\x1c\x1d\x1e\x1f"), " ")
_HIDDEN = {code: None for code in (*range(32), 127) if code not in _SPACES}
_LOWER = {code: chr(code + 32) for code in range(ord("A"), ord("Z") + 1)}
_ASCII = {**_SPACES, **_HIDDEN, **_LOWER}
# Letters and symbols by their category, and yet nothing to see.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# Marks that stand on letters to change their looks. Marks of other scripts, such as the voicing of kana or vowels of
# Hebrew, make another letter or word and stay.
# The last ones are what nothing displays unless it knows it.
_INVISIBLE = (
    *((0x300, 0x36F), (0x483, 0x489), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE00, 0xFE2F)),
    *((0x17B4, 0x17B5), (0x180B, 0x180F), (0x2065, 0x2065), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF)),
)


@lru_cache(maxsize=4096)
def fold_character(character: str) -> str:
    """What a character is compared as; empty for one that cannot be seen."""
    if character.isascii():
        return character.translate(_ASCII)
    if character in _BLANK:
        return ""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return unicodedata.normalize("NFC", "".join(map(_seen, folded)))


def _seen(character: str) -> str:
    if character.isspace():
        return " "
    if _is_invisible(character):
        return ""
    match unicodedata.category(character):
        case "Pd":
            return "-"
        case "Nd":
            return str(unicodedata.digit(character))
        case _:
            return character


@lru_cache(maxsize=4096)
def joined(before: str, character: str) -> str:
    """The one letter that two folded characters are together; empty when they stay two."""
    together = unicodedata.normalize("NFC", before + character)
    return together if len(together) == 1 else ""


@lru_cache(maxsize=4096)
def _may_be_joined(character: str) -> bool:
    return not character.isascii() and unicodedata.category(character) in {"Lo", "Mc", "Mn"}


def _is_invisible(character: str) -> bool:
    if unicodedata.category(character) in {"Cf", "Cc"} and not character.isspace():
        return True
    code = ord(character)
    return any(low <= code <= high for low, high in _INVISIBLE)


class View:
    """The part of a growing text that is still looked at, as a rule compares it.

    Places in it count from the beginning of the whole compared text. A last letter that the next character may change
    is not in it before that came.

    Attributes:
        text: The compared text from place `base` on.
        base: Place of the first character in `text`.
        length: Characters of the original text that were added.
    """

    def __init__(self, *, exact: bool) -> None:
        self.text, self.base, self.length = "", 0, 0
        self._exact = exact
        self._origins: list[Span] = []
        self._open, self._open_span = "", (0, 0)

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
            self.close()
            self.text += plain
            self._origins.extend((index, index + 1) for index in range(start, self.length))
            return
        spaced, folded = not self._open and self.text[-1:] == " ", list[str]()
        for index, character in enumerate(piece, start=start):
            for each in fold_character(character):
                may = _may_be_joined(each)
                if self._open:
                    together = joined(self._open, each) if may else ""
                    if together:
                        self._open, self._open_span = together, (self._open_span[0], index + 1)
                        continue
                    folded.append(self._open)
                    self._origins.append(self._open_span)
                    self._open = ""
                if each == " " and spaced:
                    continue
                spaced = each == " "
                if may:
                    self._open, self._open_span = each, (index, index + 1)
                else:
                    folded.append(each)
                    self._origins.append((index, index + 1))
        self.text += "".join(folded)

    def close(self) -> None:
        """Says that nothing comes which changes the last letter."""
        if self._open:
            self.text += self._open
            self._origins.append(self._open_span)
            self._open = ""

    def original(self, place: int) -> int:
        """Where in the original text a compared character begins; the end of what is settled for the end."""
        if place >= self.end:
            return self._open_span[0] if self._open else self.length
        return place if self._exact else self._origins[place - self.base][0]

    def original_end(self, place: int) -> int:
        """Where in the original text the compared character before a place ends."""
        return place if self._exact else self._origins[place - 1 - self.base][1]

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
    view.close()
    return view.text
