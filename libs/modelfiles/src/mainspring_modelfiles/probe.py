"""The fidelity probe: how close an engine comes to a reference implementation, on a fixed text. Standard library only.

A trainer computes the reference's most probable next tokens after each prefix of the text, in fp32, and stores them as
JSON; the evaluator asks the engine for the same and compares (`mainspring_evaluator.domain.fidelity`).

    {"schema": "mainspring.fidelity_probe.v1", "positions": [{"prefix": "...", "top": [[token_id, logprob], ...]}, ...]}

`top` is sorted by log-probability (natural logarithm), best first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = "mainspring.fidelity_probe.v1"
TOP = 100
"""How many tokens of each position a probe holds."""

TEXT = (
    "A lighthouse keeper writes down the weather four times a day: the wind, the height of the waves, and how far the"
    " eye can see. In 1923 the harbour office printed 40 of these pages and sent them to every ship in the bay. The"
    " captains read them at breakfast and argued about the clouds. One of them, an old woman from the north, had kept"
    " pages of her own for 31 years, and she noticed that the keeper's barometer was always a little low. She rowed"
    ' out, carried her own instrument up the stairs, and hung it beside his. For a week they compared the two. "Yours'
    ' is right," he said at last, "but mine is the one they trust." So they wrote both numbers, and the difference'
    " between them, on every page."
)
"""The text; never changed, since probes of different times are compared."""


class ProbeInvalid(ValueError):
    """The JSON is not a probe; the message names the first broken rule."""


@dataclass(frozen=True)
class Position:
    """One place in the text: what stands before it, and the most probable tokens after it."""

    prefix: str
    top: tuple[tuple[int, float], ...]


def prefixes(count: int = 32) -> tuple[str, ...]:
    """`count` prefixes of the text, each ending with a whole word, evenly spread, none shorter than three words."""
    ends = [i for i, letter in enumerate(TEXT) if letter == " "][2:]
    if not 1 <= count <= len(ends):
        raise ValueError(f"the text gives between 1 and {len(ends)} prefixes")
    return tuple(TEXT[: ends[i * len(ends) // count]] for i in range(count))


def dump(positions: Sequence[Position]) -> bytes:
    """A probe as JSON; the same positions give the same bytes."""
    body = {"schema": SCHEMA, "positions": [{"prefix": p.prefix, "top": p.top} for p in positions]}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def load(data: bytes) -> tuple[Position, ...]:
    """Reads a probe.

    Raises:
        ProbeInvalid: The bytes are no probe.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise ProbeInvalid("the probe is not JSON") from err
    if not isinstance(body, Mapping) or body.get("schema") != SCHEMA:
        raise ProbeInvalid(f"the probe does not have the schema {SCHEMA}")
    positions = body.get("positions")
    if not isinstance(positions, list) or not positions:
        raise ProbeInvalid("the probe has no positions")
    return tuple(_position(item) for item in positions)


def _position(item: Any) -> Position:
    if not isinstance(item, Mapping) or not isinstance(item.get("prefix"), str):
        raise ProbeInvalid("a position has no prefix")
    pairs: list[tuple[int, float]] = []
    for pair in item.get("top") or ():
        match pair:
            case [int(token), int() | float() as logprob] if token >= 0 and math.isfinite(logprob) and logprob <= 1e-3:
                pairs.append((token, float(logprob)))
            case _:
                raise ProbeInvalid(f"{pair!r} is no token id with a log-probability")
    if not pairs:
        raise ProbeInvalid("a position names no tokens")
    return Position(item["prefix"], tuple(pairs))
