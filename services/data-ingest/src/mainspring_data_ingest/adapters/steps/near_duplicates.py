"""Near duplicates: MinHash signatures in bands find candidates, the exact Jaccard similarity decides.

Signatures are made for a whole chunk at a time, in numpy: of the libraries, the quickest (rensa 0.5) makes them in the
same time, but gives them out as Python lists only, which takes ten times as long.

Signatures are made of prompt and answer together, which are alike when both of them are; so nothing is lost by that,
and a common short answer ("yes") does not make all rows candidates of each other.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mainspring_data_ingest.adapters.candidates import Candidates
from mainspring_data_ingest.adapters.steps.base import Arrays, Refusals
from mainspring_data_ingest.application.refining import Candidate
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import Keep, NearDuplicates, TextPart

_PERMUTATIONS = 128
_SEED = 42
"""Part of the rules: another seed may miss other pairs."""
_MAX_CANDIDATES = 1_000
"""Rows that one row is compared with; bounds the time where very many rows share a long text."""
_FOUND = 0.99
"""Chance with which a pair exactly at the threshold becomes a candidate, at least."""
_MAX_WORDS_REMEMBERED = 500_000
_HEIGHT, _MATRIX = 8, 1 << 17
"""Shingles to which texts are filled up, and entries of one matrix (which fit a processor's cache)."""
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

_random = np.random.Generator(np.random.Philox(_SEED))
_FACTORS = _random.integers(0, 1 << 32, _PERMUTATIONS, np.uint32) | np.uint32(1)
_ADDENDS = _random.integers(0, 1 << 32, _PERMUTATIONS, np.uint32)


class _WordHashes(dict[str, int]):
    """64 bits of the BLAKE2 digest of words, which are the same everywhere; those of frequent words are remembered."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MAX_WORDS_REMEMBERED:
            self.clear()
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value


class NearDuplicatesProbe:
    """Makes signatures."""

    def __init__(self, step: NearDuplicates) -> None:
        self._step = step
        self._parts = parts_of(step)
        self._hash = _WordHashes()

    def probe(self, candidates: Sequence[Candidate], drafts: Sequence[Draft]) -> Arrays:
        """See `Probe`: the hashes of each band, the hashes of all shingles, and how many there are of each part."""
        shingles = [self._shingles([draft.words(part) for draft in drafts]) for part in self._parts]
        signed: list[Any] = []
        for number, (hashes, counts) in enumerate(shingles):
            # The same words in a prompt and in an answer are not the same shingle.
            signed.append(((_mixed(hashes + np.uint64(number << 32)) >> np.uint64(32)).astype(np.uint32), counts))
        flat, counts = _interleaved(signed)
        stored, _ = _interleaved([(hashes.astype(np.uint32), counts) for hashes, counts in shingles])
        return {
            "bands": _bands(flat, counts.sum(axis=1), bands_for(self._step.threshold)),
            "hashes": stored,
            "counts": counts.astype(np.uint32),
            "length": np.array([sum(len(m.content) for m in draft.messages) for draft in drafts], np.uint32),
        }

    def _shingles(self, texts: Sequence[Sequence[str]]) -> tuple[Any, Any]:
        """The different shingles of all texts' words, one text after the other, and how many each has."""
        size = self._step.shingle_words
        lengths = np.array([*map(len, texts)], np.int64)
        flat = np.fromiter(map(self._hash.__getitem__, chain.from_iterable(texts)), np.uint64, int(lengths.sum()))
        # A text of fewer words is one shingle of all of them: missing words are a value of their own.
        counts = np.where(lengths == 0, 0, np.maximum(lengths - size + 1, 1))
        owner = np.repeat(np.arange(len(texts)), counts)
        begins = np.cumsum(lengths) - lengths
        place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        first = np.repeat(begins, counts) + place
        ends = np.repeat(begins + lengths, counts)
        hashes = np.zeros(len(first), np.uint64)
        padded = np.append(flat, np.uint64(0))
        for step in range(size):
            at = first + step
            word = np.where(at < ends, padded[np.minimum(at, len(flat))], _MIX[2])
            hashes = _mixed(hashes * _MIX[0] + word)
        hashes &= np.uint64(0xFFFFFFFF)  # Enough to tell two texts apart, in half of the space.
        order = np.lexsort((hashes, owner))
        hashes, owner = hashes[order], owner[order]
        new = np.ones(len(hashes), bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
        return hashes[new], np.bincount(owner[new], minlength=len(texts))


class NearDuplicatesDecision:
    """Refuses all but one of rows that are almost the same."""

    def __init__(self, step: NearDuplicates, position: int) -> None:
        self._step, self._position = step, position
        self._parts = len(parts_of(step))

    def decide(self, candidates: Candidates, folder: Path) -> Refusals:
        """See `Decision`."""
        members, buckets = self._buckets(candidates)
        refused, stays, alike = array("q"), array("q"), array("d")
        if len(members):
            with self._hashes(candidates, folder) as hashes_of:
                for row, first, share in self._compared(candidates, members, buckets, hashes_of):
                    refused.append(row)
                    stays.append(first)
                    alike.append(share)
        order = np.argsort(np.array(refused, np.int64))
        rows, others = np.array(refused, np.int64)[order], np.array(stays, np.int64)[order]
        shares = np.array(alike)[order]
        why = "it came first" if self._step.keep is Keep.FIRST else "it is the longest"

        def detail(index: int) -> str:
            other, row = candidates.origin(int(others[index])), candidates.origin(int(rows[index]))
            where = f"line {other.line}" + (f" of source {other.source}" if other.source != row.source else "")
            return f"is {shares[index]:.0%} like {where}, which is kept because {why}"

        return Refusals(RefusalReason.NEAR_DUPLICATE, rows, detail)

    def _buckets(self, candidates: Candidates) -> tuple[Any, Any]:
        """The candidates that share a band with another one, with the number of each bucket that they are in."""
        members: list[Any] = [np.empty(0, np.int64)]
        buckets: list[Any] = [np.empty(0, np.int32)]
        known = 0
        for band in range(bands_for(self._step.threshold)):

            def read(band: int = band) -> Iterator[tuple[int, Sequence[Any]]]:
                for chunk, start in enumerate(candidates.starts[:-1].tolist()):
                    yield start, [candidates.array(chunk, f"{self._position}-bands")[band]]

            for rows, values in candidates.repeated(read):
                members.append(rows)
                buckets.append((values + known).astype(np.int32))
                known += int(values[-1]) + 1 if len(values) else 0
        return np.concatenate(members), np.concatenate(buckets)

    def _order(self, candidates: Candidates, rows: Any) -> Any:
        """The rows in the order in which they have the right to stay."""
        if self._step.keep is Keep.FIRST:
            return rows
        lengths = np.concatenate(
            [candidates.array(chunk, f"{self._position}-length") for chunk in range(len(candidates.chunks))]
        )
        return rows[np.argsort(-lengths[rows].astype(np.int64), kind="stable")]

    def _compared(
        self, candidates: Candidates, members: Any, buckets: Any, hashes_of: Callable[[int], list[frozenset[int]]]
    ) -> Iterator[tuple[int, int, float]]:
        """Each row is compared with those that stay in its buckets. They are linked lists in flat arrays, since there
        may be millions of entries.
        """
        by_row = np.argsort(members, kind="stable")
        members, entries = members[by_row], array("i", buckets[by_row].astype(np.int32).tobytes())
        rows, begins = np.unique(members, return_index=True)
        ends = np.append(begins[1:], len(members))
        heads = array("i", b"\xff" * 4 * (int(buckets.max()) + 1))
        following = array("i", b"\xff" * 4 * len(entries))
        owner = array("i", np.repeat(np.arange(len(rows)), ends - begins).astype(np.int32).tobytes())
        # The number of a row among those in buckets, by its right to stay: the smaller, the stronger.
        rank = np.empty(len(rows), np.int32)
        order = self._order(candidates, rows)
        positions = np.searchsorted(rows, order)
        rank[positions] = np.arange(len(rows))
        for position in positions.tolist():
            begin, end = int(begins[position]), int(ends[position])
            found: set[int] = set()
            for entry in range(begin, end):
                other = heads[entries[entry]]
                while other >= 0 and len(found) < _MAX_CANDIDATES:
                    found.add(owner[other])
                    other = following[other]
            row = int(rows[position])
            winner = self._winner(row, sorted(found, key=rank.__getitem__), rows, hashes_of) if found else None
            if winner is not None:
                yield row, *winner
                continue
            for entry in range(begin, end):
                bucket = entries[entry]
                following[entry], heads[bucket] = heads[bucket], entry

    def _winner(
        self, row: int, found: Sequence[int], rows: Any, hashes_of: Callable[[int], list[frozenset[int]]]
    ) -> tuple[int, float] | None:
        mine = hashes_of(row)
        for position in found:
            other = int(rows[position])
            alike = min(map(_jaccard, mine, hashes_of(other)))
            if alike >= self._step.threshold:
                return other, alike
        return None

    @contextmanager
    def _hashes(self, candidates: Candidates, folder: Path) -> Iterator[Callable[[int], list[frozenset[int]]]]:
        """Reads the shingles of any candidate, from a file that puts all chunks' together."""
        path, sizes = folder / f"hashes-{self._position}", list[Any]()
        with path.open("wb") as file:
            for chunk in range(len(candidates.chunks)):
                candidates.array(chunk, f"{self._position}-hashes").tofile(file)
                sizes.append(candidates.array(chunk, f"{self._position}-counts"))
        counts = np.concatenate(sizes).reshape(-1, self._parts)
        ends = np.cumsum(counts.sum(axis=1), dtype=np.int64)
        descriptor = os.open(path, os.O_RDONLY)

        def read(row: int) -> list[frozenset[int]]:
            end, sizes = int(ends[row]), counts[row].tolist()
            begin = end - sum(sizes)
            values = array("I", os.pread(descriptor, 4 * (end - begin), 4 * begin))
            parts: list[frozenset[int]] = []
            for size in sizes:
                parts.append(frozenset(values[:size]))
                values = values[size:]
            return parts

        try:
            yield read
        finally:
            os.close(descriptor)
            path.unlink()


def parts_of(step: NearDuplicates) -> tuple[TextPart, ...]:
    """The parts that are compared, each by itself."""
    return (TextPart.PROMPT, TextPart.ANSWER) if step.part is TextPart.ALL else (step.part,)


def bands_for(threshold: float) -> int:
    """The fewest bands with which a pair at the threshold is found, nearly always (see `_FOUND`)."""
    for rows in (16, 8, 4, 2):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= _FOUND:
            return bands
    return _PERMUTATIONS


def _bands(hashes: Any, counts: Any, bands: int) -> Any:
    """For each band of the signatures of all texts one hash a text."""
    matrix = signatures(hashes, counts).astype(np.uint64).reshape(-1, bands, _PERMUTATIONS // bands)
    values = np.zeros(matrix.shape[:2], np.uint64)
    for column in range(matrix.shape[2]):
        values = _mixed(values * _MIX[0] + matrix[:, :, column] + np.uint64(1))
    return values.T


def signatures(hashes: Any, counts: Any) -> Any:
    """The MinHash signatures (Broder 1997) of texts.

    Args:
        hashes: Mixed hashes (32 bits) of the shingles, one text after the other.
        counts: How many each text has.

    Returns:
        Texts x permutations, 32 bits each.
    """
    made = np.full((len(counts), _PERMUTATIONS), 0xFFFFFFFF, np.uint32)
    begins = np.cumsum(counts) - counts
    # Texts of about the same length make a matrix, in which the last shingle fills the rest; so minima are taken of
    # many texts in one instruction.
    heights = -(-counts // _HEIGHT) * _HEIGHT
    for height in np.unique(heights[heights > 0]).tolist():
        alike = np.flatnonzero(heights == height)
        width = max(1, _MATRIX // height)
        for part in range(0, len(alike), width):
            texts = alike[part : part + width]
            matrix = hashes[begins[texts] + np.minimum(np.arange(height)[:, None], counts[texts] - 1)]
            matrix = matrix.astype(np.uint32, copy=False)
            for number in range(_PERMUTATIONS):
                made[texts, number] = (matrix * _FACTORS[number] + _ADDENDS[number]).min(axis=0)
    return made


def _mixed(values: Any) -> Any:
    """SplitMix64's finaliser (Steele et al. 2014): every bit in counts for every bit out."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[1]
    values = (values ^ (values >> np.uint64(27))) * _MIX[2]
    return values ^ (values >> np.uint64(31))


def _interleaved(parts: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """The values of several parts text by text instead of part by part, and the counts of each text and part."""
    counts = np.stack([counts for _, counts in parts], axis=1)
    owner = np.concatenate([np.repeat(np.arange(len(counts)), part) for part in counts.T])
    return np.concatenate([values for values, _ in parts])[np.argsort(owner, kind="stable")], counts


def _jaccard(mine: frozenset[int], other: frozenset[int]) -> float:
    if not mine and not other:
        return 1.0
    common = len(mine & other)
    return common / (len(mine) + len(other) - common)
