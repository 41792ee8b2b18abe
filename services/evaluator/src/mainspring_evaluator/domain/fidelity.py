"""How close the serving engine comes to the reference implementation, from their next-token distributions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import Fidelity

PROBE_ROLE = "fidelity_probe.json"
PROBE_SCHEMA = "mainspring.fidelity_probe.v1"
# Probability that any outcome has at least, so that rounding (a sum just above 1) cannot make a divergence infinite.
_FLOOR = 1e-9

Distribution = Mapping[int, float]
"""Natural log-probabilities of the most probable tokens by token id."""


@dataclass(frozen=True)
class Position:
    """A text to continue, and the reference implementation's distribution of the next token."""

    prefix: str
    reference: Distribution


def parse_probe(data: bytes) -> tuple[Position, ...]:
    """Reads a version's probe.

    Raises:
        PreconditionFailed: PROBE_UNREADABLE, it is not one.
    """
    try:
        document: Any = json.loads(data)
        if document["schema"] != PROBE_SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        positions = tuple(
            Position(str(entry["prefix"]), {int(token): float(logprob) for token, logprob in entry["top"]})
            for entry in document["positions"]
        )
        if not all(position.prefix and position.reference for position in positions):
            raise ValueError("a position without prefix or tokens")
    except (ValueError, TypeError, KeyError) as err:
        message = f"{PROBE_ROLE} of the candidate cannot be read ({err}); register the version again"
        raise PreconditionFailed("PROBE_UNREADABLE", message) from err
    return positions


def kl_nats(reference: Distribution, engine: Distribution) -> float:
    """KL(reference || engine) in nats over the reference's tokens, all others lumped into one outcome.

    A token that the engine does not list is at most as probable as the last one that it lists. Where the engine's
    probability is not known, its upper bound is used: the result is at most the true divergence, and an engine that
    lists none of the reference's tokens is still seen to be far away.
    """
    least_listed = math.exp(min(engine.values(), default=0.0))
    divergence = reference_sum = listed_sum = 0.0
    for token, logprob in reference.items():
        p = math.exp(logprob)
        q = math.exp(engine[token]) if token in engine else least_listed
        reference_sum += p
        listed_sum += q if token in engine else 0.0
        divergence += _term(p, q)
    divergence += _term(1 - reference_sum, 1 - listed_sum)
    return max(divergence, 0.0)


def _term(p: float, q: float) -> float:
    return p * math.log(p / max(q, _FLOOR)) if p > 0 else 0.0


def compare(pairs: Sequence[tuple[Distribution, Distribution]]) -> Fidelity | None:
    """Means over positions, each a reference distribution with the engine's; None when there are none."""
    if not pairs:
        return None
    divergences = [kl_nats(reference, engine) for reference, engine in pairs]
    same_first = [_first(reference) == _first(engine) for reference, engine in pairs]
    return Fidelity(math.fsum(divergences) / len(pairs), sum(same_first) / len(pairs), len(pairs))


def _first(distribution: Distribution) -> int | None:
    return max(distribution, key=lambda token: distribution[token], default=None)
