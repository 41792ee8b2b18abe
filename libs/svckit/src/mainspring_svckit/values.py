"""Values that the domains of several services share. Pure: no I/O, no protobuf."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArtifactRef:
    """Bytes in the project's content-addressed store.

    Attributes:
        sha256: 64 lower-case hexadecimal digits; the address.
        size_bytes: Length.
        media_type: IANA media type, or empty.
        filename: Name to show and to use on export, or empty.
    """

    sha256: str
    size_bytes: int
    media_type: str = ""
    filename: str = ""


@dataclass(frozen=True)
class Progress:
    """How far long work has come: `done` of `total` (0 while unknown) units."""

    done: int = 0
    total: int = 0
    unit: str = ""
    phase: str = ""
    remaining_s: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A measured value with its confidence interval."""

    value: float
    low: float
    high: float
    confidence_level: float


@dataclass(frozen=True)
class ScorerResult:
    """What one scorer says of a candidate and of the baseline that it is compared with; higher is better.

    Attributes:
        scorer: For example `rouge_l`.
        signature: Everything needed to compute it again.
        candidate: The candidate's score.
        baseline: The baseline's; None without one.
        difference: Candidate minus baseline, paired over items; None without a baseline.
        p_value: Two-sided, for "no difference"; 0 without a baseline.
    """

    scorer: str
    signature: str
    candidate: Estimate
    baseline: Estimate | None = None
    difference: Estimate | None = None
    p_value: float = 0.0


@dataclass(frozen=True)
class Fidelity:
    """How close the serving engine comes to the reference implementation in fp32, over the positions of a fixed text.

    Attributes:
        mean_kl_nats: Mean KL(reference || engine) of next-token distributions.
        top1_agreement: Share of positions at which both put the same token first.
        positions: Positions compared.
    """

    mean_kl_nats: float
    top1_agreement: float
    positions: int
