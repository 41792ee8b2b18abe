"""Spherical k-means (Dhillon and Modha 2001). Imported by child processes only: it needs numpy."""

from __future__ import annotations

from typing import Any

import numpy as np


def centres(vectors: Any, count: int, *, iterations: int, first: int = 0) -> Any:
    """The centres of at most `count` clusters of vectors of length 1; the search begins with vectors far from each
    other, the first of them being that at position `first`, counted round.
    """
    count = min(count, len(vectors))
    chosen = [first % len(vectors)]
    nearest = vectors @ vectors[chosen[0]]
    for _ in range(count - 1):
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    found: Any = vectors[chosen]
    members = labels(vectors, found)
    for _ in range(iterations):
        for cluster in range(count):
            if np.any(members == cluster):
                found[cluster] = vectors[members == cluster].sum(axis=0)
        found = unit(found)
        moved = labels(vectors, found)
        if np.array_equal(moved, members):
            break
        members = moved
    return found


def labels(vectors: Any, of: Any) -> Any:
    """The nearest of some centres for each vector."""
    return np.argmax(vectors @ of.T, axis=1)


def unit(vectors: Any) -> Any:
    """The vectors with length 1; such without a direction stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
