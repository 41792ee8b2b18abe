"""All candidates of an ingestion as columns of numbers, and which of them have a value in common.

Memory: a byte or two for each candidate (a dozen more once somebody asks where one stands), and what `repeated`
needs for one part of the values, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mainspring_data_ingest.adapters.chunks import ChunkFolder, ChunkInfo

PART_ROWS = 500_000
"""Values that are sorted at a time."""
KEPT = 0
"""The fate of a candidate that nothing has refused; other fates are numbers that `Decisions` gives."""
Columns = Callable[[], Iterator[tuple[int, Sequence[Any]]]]
"""Gives, chunk by chunk, the number of the first candidate, and one or two arrays (low and high words) of values."""


class Origin(NamedTuple):
    """Position of a record's source, and its line there."""

    source: int
    line: int


class Candidates:
    """The candidates of all chunks, numbered through in input order.

    Attributes:
        fate: What became of each; `KEPT` or who refused it.
    """

    def __init__(self, folder: ChunkFolder, chunks: Sequence[ChunkInfo]) -> None:
        self._folder, self.chunks = folder, chunks
        self.starts = np.cumsum([0, *(chunk.candidates for chunk in chunks)])
        self.count = int(self.starts[-1])
        self.fate = np.zeros(self.count, np.uint8)

    def array(self, chunk: int, name: str) -> Any:
        """One array of a chunk."""
        return self._folder.array(self.chunks[chunk].number, name)

    def column(self, name: str) -> Any:
        """One of the `KEYS` of all candidates."""
        parts = [self.array(chunk, "keys")[name] for chunk in range(len(self.chunks))]
        return np.concatenate(parts) if parts else np.empty(0)

    def origin(self, candidate: int) -> Origin:
        """Where a candidate stands."""
        sources, lines = self._origins
        return Origin(int(sources[candidate]), int(lines[candidate]))

    @cached_property
    def _origins(self) -> tuple[Any, Any]:
        # To open a chunk's file for each of many candidates would take longer than all that is done with the answer.
        return self.column("source"), self.column("line")

    def keys(self, *names: str) -> Columns:
        """Some of the `KEYS`, chunk by chunk."""

        def read() -> Iterator[tuple[int, Sequence[Any]]]:
            for chunk, start in enumerate(self.starts[:-1].tolist()):
                keys = self.array(chunk, "keys")
                yield start, [keys[name] for name in names]

        return read

    def texts(self, chunk: int, *columns: str) -> Any:
        """Columns of texts of a chunk."""
        return self._folder.texts(self.chunks[chunk].number, *columns)

    def repeated(self, columns: Columns) -> Iterator[Any]:
        """The kept candidates whose values another kept one has, part by part.

        Each part is sorted by value and then by candidate: an array of candidates, and one that numbers the values.
        A value is in one part only, so that each part can be judged by itself.
        """
        parts = 1 + self.count // PART_ROWS
        for part in range(parts):
            rows, low, high = self._part(columns, part, parts)
            order = np.argsort(low, kind="stable")
            ordered = low[order]
            same = ordered[1:] == ordered[:-1]
            member = np.zeros(len(ordered), bool)
            member[1:] |= same
            member[:-1] |= same
            chosen = order[member]
            if len(high):
                # Equal low words nearly always mean equal values; this settles it.
                chosen = chosen[np.lexsort((rows[chosen], high[chosen], low[chosen]))]
            new = np.ones(len(chosen), bool)
            new[1:] = low[chosen][1:] != low[chosen][:-1]
            if len(high):
                new[1:] |= high[chosen][1:] != high[chosen][:-1]
            yield rows[chosen], np.cumsum(new) - 1

    def _part(self, columns: Columns, part: int, parts: int) -> tuple[Any, Any, Any]:
        rows: list[Any] = [np.empty(0, np.int64)]
        low: list[Any] = [np.empty(0, np.uint64)]
        high: list[Any] = []
        for start, values in columns():
            wanted = self.fate[start : start + len(values[0])] == KEPT
            if parts > 1:
                wanted &= values[0] % np.uint64(parts) == part
            here = np.flatnonzero(wanted)
            rows.append(here + start)
            low.append(values[0][here])
            if len(values) > 1:
                high.append(values[1][here])
        return np.concatenate(rows), np.concatenate(low), np.concatenate(high) if high else np.empty(0, np.uint64)


def firsts(rows: Any, values: Any) -> Any:
    """For each candidate of a part of `Candidates.repeated` the first one with its value."""
    begins = np.flatnonzero(np.diff(values, prepend=-1))
    return rows[begins][values]
