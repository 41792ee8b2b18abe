"""How versions of a model are measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

DEFAULT_MAX_OUTPUT_TOKENS = 128
DEFAULT_RESAMPLES = 1_000
DEFAULT_CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Sampling:
    """How answers are generated while measuring."""

    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class EvaluationSuite:
    """What is measured, on what, and how surely.

    Attributes:
        name: Resource name.
        model: Model whose new versions are measured.
        scorers: Names of scorers.
        dataset_version: Whose test split is used; empty for the data that the candidate was trained on.
        max_items: Most items; 0 for all.
        sampling: How answers are generated.
        bootstrap_resamples: Resamples for intervals and p values.
        confidence_level: Of all intervals.
    """

    name: str
    model: str
    scorers: tuple[str, ...]
    dataset_version: str = ""
    max_items: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    bootstrap_resamples: int = DEFAULT_RESAMPLES
    confidence_level: float = DEFAULT_CONFIDENCE_LEVEL

    @property
    def sha256(self) -> str:
        """Digest of the suite as canonical JSON; equal digests mean equal measurements."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
