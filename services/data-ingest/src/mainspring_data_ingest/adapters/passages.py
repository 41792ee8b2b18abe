"""Texts of any length as passages that are short enough for a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MAX_CHARACTERS = 4_000
"""Longest passage; about a thousand tokens of English."""


def passages(blocks: Iterable[tuple[int, str]], most: int = MAX_CHARACTERS) -> Iterator[tuple[int, str]]:
    """Blocks (paragraphs, headings, pages) put together while they fit, and taken apart where they do not.

    Args:
        blocks: Texts with the place at which each begins; those that hold nothing but white space are passed over.
        most: Longest passage, in characters.

    Yields:
        The place at which a passage begins, and its text. A heading (`#`) begins a new passage when the one before is
        at least half full.
    """
    place, held, size = 0, list[str](), 0
    for begins, block in blocks:
        for piece in _pieces(block.strip("\n").rstrip(), most):
            full = size + len(piece) + 2 > most or (piece.startswith("#") and size * 2 > most)
            if held and full:
                yield place, "\n\n".join(held)
                held, size = [], 0
            if not held:
                place = begins
            held.append(piece)
            size += len(piece) + 2
    if held:
        yield place, "\n\n".join(held)


def _pieces(text: str, most: int) -> Iterator[str]:
    while len(text) > most:
        head = text[:most]
        cut = max(head.rfind("\n"), head.rfind(". ") + 1)
        if cut < most // 2:
            cut = head.rfind(" ")
        if cut < most // 2:
            cut = most
        yield text[:cut].rstrip()
        text = text[cut:].lstrip()
    if text.strip():
        yield text
