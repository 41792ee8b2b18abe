"""Cuts documents into chunks that an embedding model can read whole.

Paragraphs stay together as far as they fit; what is too long is cut at line ends, then at sentence ends, then between
words. A document's title is read with each of its chunks, since a chunk often does not say what it is about.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mainspring_embedder.domain.documents import Document

MAX_WORDS = 180
# Sentence encoders commonly read 256 tokens. The estimate below can be too low (with MiniLM's own tokenizer: for no
# chunk of Python's reference, for 6 % of the chunks of Python code); the model refuses such a chunk, and it is halved.
MAX_TOKENS = 220
_TITLE_TOKENS = 40
_PIECES = re.compile(r"[^\W_]+|_|[^\w\s]")
_CUTS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?;:])\s+"), re.compile(r"\s+"))
_JOINS = ("\n\n", "\n", " ", " ")


@dataclass(frozen=True)
class Chunk:
    """A piece of a document.

    Attributes:
        id: Follows from the document's id, its title and the text, so that unchanged text keeps its id.
        document_id: Document that it is from.
        title: The document's.
        uri: The document's.
        text: The piece.
    """

    id: str
    document_id: str
    title: str
    uri: str
    text: str

    @property
    def to_embed(self) -> str:
        """What the model reads."""
        title = first_part(self.title, _TITLE_TOKENS)
        return f"{title}\n{self.text}" if title else self.text

    def halves(self) -> tuple[Chunk, Chunk] | None:
        """Two chunks that say the same; None when there is nothing to cut."""
        middle = len(self.text) // 2
        cut = self.text.find(" ", middle)
        cut = cut if cut > 0 else middle
        first, second = self.text[:cut].strip(), self.text[cut:].strip()
        if not first or not second:
            return None
        return _chunk(self.document_id, self.title, self.uri, first), _chunk(
            self.document_id, self.title, self.uri, second
        )


def chunks_of(document: Document) -> list[Chunk]:
    """The document in chunks, in order, each text once."""
    left = MAX_TOKENS - tokens_in(first_part(document.title, _TITLE_TOKENS))
    texts = dict.fromkeys(_pack(document.text.strip(), left, 0))
    return [_chunk(document.id, document.title, document.uri, text) for text in texts if text]


def first_part(text: str, max_tokens: int) -> str:
    """As many of the first words as fit, or of the first word's characters."""
    stripped = text.strip()
    if _fits(stripped, max_tokens):
        return stripped
    return next(_pack(stripped, max_tokens, len(_CUTS) - 1), "")


def tokens_in(text: str) -> int:
    """An estimate of the tokens that a WordPiece tokenizer makes: punctuation counts, long words are taken apart, and
    digits and words of other scripts are taken apart more.
    """
    total = 0
    for piece in _PIECES.findall(text):
        if not piece.isascii():
            total += len(piece)
        elif piece.isalpha():
            total += 1 + max(0, len(piece) - 6) // 4
        else:
            total += 1 + max(0, len(piece) - 2) // 2
    return total


def _pack(text: str, max_tokens: int, level: int) -> Iterator[str]:
    """Cuts a text at the coarsest places that help, and packs the parts up to the limit."""
    if _fits(text, max_tokens):
        yield text
        return
    if level == len(_CUTS):
        # One word without end; a character is at most one token.
        yield from (text[start : start + max_tokens] for start in range(0, len(text), max_tokens))
        return
    packed: list[str] = []
    used_tokens = used_words = 0
    for part in _CUTS[level].split(text):
        if not part.strip():
            continue
        tokens, words = tokens_in(part), len(part.split())
        if packed and (used_tokens + tokens > max_tokens or used_words + words > MAX_WORDS):
            yield _joined(packed, level)
            packed, used_tokens, used_words = [], 0, 0
        if tokens > max_tokens or words > MAX_WORDS:
            yield from _pack(part, max_tokens, level + 1)
            continue
        packed.append(part)
        used_tokens, used_words = used_tokens + tokens, used_words + words
    if packed:
        yield _joined(packed, level)


def _fits(text: str, max_tokens: int) -> bool:
    return len(text.split()) <= MAX_WORDS and tokens_in(text) <= max_tokens


def _joined(parts: Sequence[str], level: int) -> str:
    return _JOINS[level].join(part.rstrip() for part in parts).strip("\n")


def _chunk(document_id: str, title: str, uri: str, text: str) -> Chunk:
    digest = hashlib.sha256("\x00".join((document_id, title, text)).encode()).hexdigest()
    return Chunk(digest[:32], document_id, title, uri, text)
