"""What a number of items can show: minimum detectable effects and sample sizes, by the normal approximation.

A paired comparison finds a difference when the two-sided interval around it leaves out 0. With the standard error s of
the difference this happens with probability `power` for differences of (z(1 - alpha/2) + z(power)) s. The spread is
itself an estimate, and the ends of an interval are resampled, so a tenth more items are reckoned with than that says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

DEFAULT_POWER = 0.8
_ALLOWANCE = 1.1


def minimum_detectable_effect(standard_error: float, *, confidence_level: float, power: float = DEFAULT_POWER) -> float:
    """Smallest difference that is found with probability `power`."""
    return _reach(confidence_level, power) * standard_error


def items_needed(
    standard_deviation: float, effect: float, *, confidence_level: float, power: float = DEFAULT_POWER
) -> int:
    """Fewest items that find `effect` with probability `power`, when one item's difference deviates so much."""
    return max(2, math.ceil((_reach(confidence_level, power) * standard_deviation / effect) ** 2))


def standard_error_of(low: float, high: float, confidence_level: float) -> float:
    """Standard error that an interval stands for."""
    return (high - low) / (2 * NormalDist().inv_cdf((1 + confidence_level) / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for how many there are (Holm 1979): whichever are below alpha now, the chance that any of them
    is so without a difference is at most alpha.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p value (McNemar 1947, binomial) of the items that only one of two systems has right."""
    n, smaller = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    log_total = n * math.log(2)
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - log_total)
        for k in range(smaller + 1)
    )
    return min(1.0, 2 * tail)


def _reach(confidence_level: float, power: float) -> float:
    normal = NormalDist()
    return math.sqrt(_ALLOWANCE) * (normal.inv_cdf((1 + confidence_level) / 2) + normal.inv_cdf(power))
