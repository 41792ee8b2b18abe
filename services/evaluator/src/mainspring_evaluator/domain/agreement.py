"""How well a judge agrees with people, and what its words mean."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SCORE = re.compile(r"(?<![\d.])([1-5])(?![\d]|\.\d)")
_CHOICE = re.compile(r"\b(A|B|(?i:equal|tie))\b")
_YES_NO = re.compile(r"\b(yes|no)\b")


def cohens_kappa(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Agreement of two raters beyond chance (Cohen 1960), 1 for full agreement; where chance alone would explain all of
    it (both always say the same one thing) 0, since nothing was shown.
    """
    if not pairs:
        return 0.0
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    first, second = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    expected = first * second + (1 - first) * (1 - second)
    return (observed - expected) / (1 - expected) if expected < 1 else 0.0


def read_score(text: str) -> float | None:
    """A score from 1 to 5 as 0 to 1; None when the text holds none, or several that differ."""
    found = set(_SCORE.findall(text.split("\n\n", 1)[0]))
    return (int(found.pop()) - 1) / 4 if len(found) == 1 else None


def read_choice(text: str) -> float | None:
    """1 for A, 0 for B, 0.5 for equal; None when the text holds none, or several."""
    found = {word if word in {"A", "B"} else "equal" for word in _CHOICE.findall(text)}
    return {"A": 1.0, "B": 0.0, "equal": 0.5}[found.pop()] if len(found) == 1 else None


def read_yes_no(text: str) -> float | None:
    """1 for yes, 0 for no; None when the text holds none, or both."""
    found = set(_YES_NO.findall(text.lower()))
    return float(found.pop() == "yes") if len(found) == 1 else None


def both_orders(first: float | None, second: float | None) -> tuple[float | None, bool]:
    """What a judge thinks of A against B from its words on "A, B" and on "B, A" (0 to 1 for the answer shown first),
    and whether these contradict each other; who decides by the order says "equal".
    """
    if first is None or second is None:
        return None, False
    other = 1 - second
    if first == other:
        return first, False
    contradiction = {first, other} == {0.0, 1.0}
    return 0.5 if contradiction else (first + other) / 2, contradiction


def sentences(text: str) -> list[str]:
    """The sentences of a text, as far as full stops tell."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", text.strip())
    return [part.strip() for part in parts if part.strip()]
