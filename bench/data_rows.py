"""Rows for benchmarks of data, made by a seed: about 200 bytes each, with the dirt that real files have."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import orjson

EVALUATION_ROWS = 1_000
_VOCABULARY = 20_000
_LETTERS = "etaoinshrdlucmfwypvbgk"
_BROKEN = ("cafÃ©", "naÃ¯ve", "itâ€™s", "dÃ©cor", "Ã¼ber")
_JUNK = ("!!!??? " * 20, "the " * 40, "a" * 120, "#### " * 25)


@dataclass(frozen=True)
class Shares:
    """Of which dirt there is how much, as shares of all rows."""

    exact_duplicates: float = 0.05
    near_duplicates: float = 0.10
    leaks: float = 0.01
    junk: float = 0.01
    mojibake: float = 0.02


class Rows:
    """Rows in their order; the same seed gives the same ones."""

    def __init__(self, seed: int, shares: Shares | None = None) -> None:
        self._random = random.Random(seed)
        self._shares = shares or Shares()
        self._words = [self._word() for _ in range(_VOCABULARY)]
        # Words are as frequent as in real text, by Zipf's law.
        self._weights = list(accumulate(1 / (rank + 10) for rank in range(_VOCABULARY)))
        self.evaluation = [self._row() for _ in range(EVALUATION_ROWS)]

    def make(self, count: int) -> Iterator[tuple[str, str]]:
        """So many pairs of prompt and answer."""
        shares, chance = self._shares, self._random.random
        earlier: list[tuple[str, str]] = []
        bounds = list(
            accumulate((shares.exact_duplicates, shares.near_duplicates, shares.leaks, shares.junk, shares.mojibake))
        )
        for number in range(count):
            row, place = self._row(), chance()
            if place < bounds[1] and earlier:
                row = self._random.choice(earlier)
                row = row if place < bounds[0] else self._nearly(row)
            elif bounds[1] <= place < bounds[2]:
                row = self._random.choice(self.evaluation)
            elif bounds[2] <= place < bounds[3]:
                row = row[0], self._random.choice(_JUNK)
            elif bounds[3] <= place < bounds[4]:
                row = row[0], f"{row[1]} {self._random.choice(_BROKEN)}."
            elif number % 10 == 0:
                # What is copied is copied from a sample, so that this generator's own memory stays small.
                earlier.append(row)
                if len(earlier) > 20_000:
                    earlier[self._random.randrange(20_000)] = earlier.pop()
            yield row

    def _row(self) -> tuple[str, str]:
        prompt = " ".join(self._some(8))
        answer = " ".join(self._some(21))
        return f"About {prompt}?", f"{answer.capitalize()}."

    def _some(self, count: int) -> list[str]:
        return self._random.choices(self._words, cum_weights=self._weights, k=count)

    def _nearly(self, row: tuple[str, str]) -> tuple[str, str]:
        """The row as people copy: with other case, spaces and stops; every fourth also with a word more."""
        prompt, answer = row
        words = answer.rstrip(".").split()
        if self._random.random() < 0.25:
            words.append(self._random.choice(self._words))
        return prompt, "  ".join(words).upper() + " !!"

    def _word(self) -> str:
        return "".join(
            self._random.choices(_LETTERS, weights=range(len(_LETTERS), 0, -1), k=self._random.randint(2, 8))
        )


def write(path: Path, rows: Iterator[tuple[str, str]]) -> int:
    """Writes rows as JSON Lines with the columns `prompt` and `answer`; returns how many bytes."""
    with path.open("wb", buffering=1 << 20) as file:
        for prompt, answer in rows:
            file.write(orjson.dumps({"prompt": prompt, "answer": answer}) + b"\n")
        return file.tell()
