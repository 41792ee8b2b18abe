"""What a benchmark says: figures with their bars, their repeats, and whether the bar was met. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Bar:
    """What a figure must reach.

    Attributes:
        value: In the figure's unit.
        at_least: True when more is better, false when less is.
    """

    value: float
    at_least: bool = False

    def met_by(self, measured: float) -> bool:
        """Whether a value reaches the bar; reaching it exactly counts."""
        return measured >= self.value if self.at_least else measured <= self.value

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.value:g}"


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
        name: What was measured, in words.
        unit: Unit of `value`, the repeats and the bar.
        value: The figure; by default the median of the repeats.
        repeats: The single measurements.
        bar: What it must reach; None for what is told only.
        note: What a reader must know to judge it.
    """

    name: str
    unit: str
    value: float
    repeats: tuple[float, ...] = ()
    bar: Bar | None = None
    note: str = ""

    @classmethod
    def of(cls, name: str, unit: str, repeats: Sequence[float], bar: Bar | None = None, note: str = "") -> Figure:
        """The median of repeats.

        Raises:
            ValueError: There are none.
        """
        if not repeats:
            raise ValueError(f"{name} was not measured once")
        return cls(name, unit, median(repeats), tuple(repeats), bar, note)

    @property
    def met(self) -> bool | None:
        """Whether the bar was met; None without one."""
        return None if self.bar is None else self.bar.met_by(self.value)

    @property
    def ratio(self) -> float | None:
        """The figure as a multiple of its bar; None without a bar, or where the bar is 0."""
        return None if self.bar is None or not self.bar.value else self.value / self.bar.value

    def as_json(self) -> dict[str, Any]:
        """As plain values; figures to six significant digits, which is more than any of them is worth."""
        described: dict[str, Any] = {
            "name": self.name,
            "unit": self.unit,
            "value": _rounded(self.value),
            "repeats": [_rounded(value) for value in self.repeats],
        }
        if self.bar is not None:
            described["bar"] = {"value": self.bar.value, "at_least": self.bar.at_least}
            described["met"] = self.met
            described["ratio"] = None if self.ratio is None else _rounded(self.ratio)
        if self.note:
            described["note"] = self.note
        return described


@dataclass
class Result:
    """One benchmark's figures.

    Attributes:
        name: Name of the benchmark.
        figures: What was measured.
        details: What else is worth keeping: settings, counts, single failures.
        warnings: Why the figures may not be what a quiet machine gives.
        seconds: How long the benchmark took.
        load: What others used of the processor before it, the system's load average then, and what a host withheld
            while it ran.
        error: Why it ended without figures; empty when it did not.
        skipped: What it lacks to be run, and how it is given; empty when it was run.
    """

    name: str
    figures: list[Figure] = field(default_factory=list[Figure])
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    warnings: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    load: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""
    skipped: str = ""

    @property
    def missed(self) -> list[Figure]:
        """Figures that did not reach their bars."""
        return [figure for figure in self.figures if figure.met is False]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "figures": [figure.as_json() for figure in self.figures],
            "details": self.details,
            "warnings": self.warnings,
            "seconds": round(self.seconds, 1),
            "load_before": self.load,
            "error": self.error,
            "skipped": self.skipped,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values do not exceed (nearest rank).

    Raises:
        ValueError: There are no values, or the percentage is not above 0 and at most 100.
    """
    if not values or not 0 < percent <= 100:
        raise ValueError("a percentile needs values, and a percentage above 0 and at most 100")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
