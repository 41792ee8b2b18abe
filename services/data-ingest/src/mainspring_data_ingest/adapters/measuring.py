"""Measures texts by their vectors and by BLEU. Imported by child processes only: it needs numpy and sacrebleu."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from mainspring_data_ingest.adapters.kmeans import centres, labels, unit
from mainspring_data_ingest.domain.measurements import CLUSTERS, LEXICAL, SELF_BLEU_ROWS, Alignment, Measurement

_LEXICAL_SIZE = 2048
_ITERATIONS = 20


def measure(
    answers: Sequence[str],
    texts: Sequence[str],
    reference: Sequence[str],
    vectors: Any,
    model: str,
) -> Measurement:
    """Measures a sample.

    Args:
        answers: The answers of its rows.
        texts: Prompt and answer of its rows.
        reference: Prompt and answer of the reference's rows; empty for none.
        vectors: Vectors of `texts` and then of `reference`, one a row; None for lexical ones.
        model: What made the vectors.
    """
    everything: Any = lexical([*texts, *reference]) if vectors is None else unit(np.asarray(vectors, dtype=np.float64))
    mine, other = everything[: len(texts)], everything[len(texts) :]
    members = clusters(everything)
    sizes = np.bincount(members[: len(texts)], minlength=int(members.max()) + 1)
    return Measurement(
        rows=len(texts),
        vectors=model if vectors is not None else LEXICAL,
        self_bleu=round(self_bleu(answers[:SELF_BLEU_ROWS]), 2),
        vendi_score=round(vendi_score(mine), 3),
        cluster_evenness=round(_evenness(sizes), 4),
        alignment=_alignment(mine, other, members) if len(other) else None,
    )


def self_bleu(answers: Sequence[str]) -> float:
    """Mean sentence BLEU of an answer against all others (Zhu et al. 2018)."""
    if len(answers) < 2:
        return 0.0
    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(answer, [other for j, other in enumerate(answers) if j != i]).score
        for i, answer in enumerate(answers)
    ]
    return sum(scores) / len(scores)


def vendi_score(vectors: Any) -> float:
    """The exponential of the entropy of the eigenvalues of the kernel over its size (Friedman and Dieng 2023)."""
    values = np.linalg.eigvalsh(vectors @ vectors.T / len(vectors))
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def lexical(texts: Sequence[str]) -> Any:
    """Vectors of length 1 of how often runs of three characters come, hashed."""
    vectors = np.zeros((len(texts), _LEXICAL_SIZE))
    for row, text in enumerate(texts):
        padded = f" {' '.join(text.casefold().split())} "
        for start in range(len(padded) - 2):
            vectors[row, zlib.crc32(padded[start : start + 3].encode()) % _LEXICAL_SIZE] += 1
    return unit(np.sqrt(vectors))


def clusters(vectors: Any) -> Any:
    """The cluster of each vector."""
    return labels(vectors, centres(vectors, CLUSTERS, iterations=_ITERATIONS))


def _alignment(mine: Any, other: Any, members: Any) -> Alignment:
    likeness = mine @ other.T
    held = set(members[len(mine) :].tolist())
    return Alignment(
        reference_rows=len(other),
        reference_to_nearest=round(float(likeness.max(axis=0).mean()), 4),
        row_to_nearest=round(float(likeness.max(axis=1).mean()), 4),
        reference_clusters=len(held),
        covered_clusters=len(held & set(members[: len(mine)].tolist())),
    )


def _evenness(sizes: Any) -> float:
    shares = sizes[sizes > 0] / sizes.sum()
    return float(-np.sum(shares * np.log(shares)) / np.log(len(sizes))) if len(sizes) > 1 else 0.0
