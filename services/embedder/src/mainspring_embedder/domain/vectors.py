"""Vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mainspring_svckit.errors import PreconditionFailed

Vector = Sequence[float]


def unit(vector: Vector) -> list[float]:
    """The vector at length 1.

    Raises:
        PreconditionFailed: VECTOR_UNUSABLE, it has no direction.
    """
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not math.isfinite(length) or length == 0:
        message = "the embedding model gave a vector without direction; import the model again"
        raise PreconditionFailed("VECTOR_UNUSABLE", message)
    return [value / length for value in vector]
