"""Clusters of rows by the vectors of their texts.

Memory grows with the sample on which centres are found, and with one chunk; vectors lie on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mainspring_data_ingest.adapters import kmeans
from mainspring_data_ingest.adapters.candidates import Candidates
from mainspring_data_ingest.adapters.steps.base import Arrays, Vectors
from mainspring_data_ingest.domain.rows import Draft
from mainspring_data_ingest.domain.steps import BalanceClusters, TextPart

MAX_CHARACTERS = 1_000
SAMPLE_ROWS = 10_000
_ITERATIONS = 25


def texts_of(drafts: Sequence[Draft]) -> Arrays:
    """The beginnings of texts, in UTF-8 one after the other, and where each ends."""
    texts = [draft.text(TextPart.ALL)[:MAX_CHARACTERS].encode() for draft in drafts]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return {"text": np.frombuffer(b"".join(texts), np.uint8), "ends": ends}


def labels(
    step: BalanceClusters, position: int, candidates: Candidates, kept: Any, folder: Path, vectors: Vectors
) -> Any:
    """The cluster of each kept candidate.

    Args:
        step: How to cluster.
        position: Position of the step in the recipe.
        candidates: All candidates.
        kept: Those that are clustered, ascending.
        folder: Where texts and vectors are put.
        vectors: Has vectors made.
    """
    parts: list[tuple[Any, Any]] = []
    for chunk in range(len(candidates.chunks)):
        begin, end = candidates.starts[chunk : chunk + 2].tolist()
        low, high = np.searchsorted(kept, [begin, end]).tolist()
        if low < high:
            texts = _written(position, candidates, chunk, kept[low:high] - begin, folder)
            made = np.memmap(vectors(texts, step.embedding_model_version), "<f4", mode="r").reshape(high - low, -1)
            parts.append((slice(low, high), made))
    found = np.zeros(len(kept), np.uint64)
    if not parts:
        return found
    digests = candidates.column("row_low")[kept]
    sampled = np.zeros(len(kept), bool)
    sampled[np.argsort(digests, kind="stable")[:SAMPLE_ROWS]] = True
    sample = np.concatenate([kmeans.unit(made[np.flatnonzero(sampled[where])]) for where, made in parts])
    # In the order of digests, so that neither the order of rows nor that of sources decides.
    sample = sample[np.argsort(digests[sampled], kind="stable")]
    centres = kmeans.centres(sample, step.count, iterations=_ITERATIONS, first=step.seed)
    for where, made in parts:
        found[where] = kmeans.labels(kmeans.unit(np.asarray(made)), centres)
    return found


def _written(position: int, candidates: Candidates, chunk: int, members: Any, folder: Path) -> Path:
    """The texts of a chunk's members as lines of JSON."""
    text, ends = (candidates.array(chunk, f"{position}-{name}") for name in ("text", "ends"))
    path = folder / f"texts-{position}-{chunk:06}.jsonl"
    with path.open("wb") as file:
        for member in members.tolist():
            line = bytes(text[ends[member] : ends[member + 1]]).decode()
            file.write(orjson.dumps(line) + b"\n")
    return path
