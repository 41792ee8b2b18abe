"""What is measured of a version's texts beyond its report, on a sample of fixed size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SAMPLE_ROWS = 256
"""Rows measured: those with the smallest ids, which are digests, so the sample is fair and always the same."""
SELF_BLEU_ROWS = 100
CLUSTERS = 16
LEXICAL = "lexical"
"""Stands for a model where none made the vectors: hashed runs of three characters, likeness of words only."""


@dataclass(frozen=True)
class Alignment:
    """How near two sets of texts are; likeness is the cosine of vectors, at most 1.

    Attributes:
        reference_rows: Rows of the reference.
        reference_to_nearest: Mean likeness of a reference row to the version's nearest: is the use case covered?
        row_to_nearest: Mean likeness of a row to the nearest reference row: is the version about the use case?
        reference_clusters: Clusters that hold reference rows.
        covered_clusters: Those of them that hold rows of the version too.
    """

    reference_rows: int
    reference_to_nearest: float
    row_to_nearest: float
    reference_clusters: int
    covered_clusters: int


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes:
        rows: Rows of the sample.
        vectors: The model version that made the vectors, or `LEXICAL`.
        self_bleu: Mean BLEU of an answer against the others, 0 to 100 (Zhu et al. 2018); high means alike.
        vendi_score: How many different rows there are in effect, 1 to `rows` (Friedman and Dieng 2023).
        cluster_evenness: Entropy of the sizes of clusters, 0 (all in one) to 1 (all alike).
        alignment: How near it is to the reference; None without one.
    """

    rows: int
    vectors: str
    self_bleu: float
    vendi_score: float
    cluster_evenness: float
    alignment: Alignment | None = None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Measurement:
        """Reads what `dataclasses.asdict` gave."""
        measured: dict[str, Any] = {**body}
        near: dict[str, Any] | None = measured.pop("alignment")
        return cls(**measured, alignment=Alignment(**near) if near is not None else None)
