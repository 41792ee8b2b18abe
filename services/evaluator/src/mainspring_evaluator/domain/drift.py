"""Drift: what a released version is worth on today's questions, against what it was worth when it was new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

DEFAULT_INTERVAL_S = 86_400.0
DEFAULT_SAMPLE_ITEMS = 100
DEFAULT_ALPHA = 0.01
MIN_ITEMS = 20
# Signals of the traffic itself, beside the suite's scorers.
QUESTION_WORDS, SERVED_LATENCY, APPROVAL = "question_words", "served_latency", "approval"
# Neither more nor less of these is better: any change is told.
UNDIRECTED = frozenset({QUESTION_WORDS, "answer_words"})


@dataclass(frozen=True)
class DriftMonitor:
    """What is watched, how often, and how surely.

    Attributes:
        name: Resource name.
        model: Model whose released version is watched.
        evaluation_suite: Suite whose sampling, judges and scorers are used.
        interval_s: Between two checks.
        sample_items: Questions of one check.
        alpha: Chance of a false alarm in one check.
        paused: Whether checks are stopped.
        latest_report: Newest report, or empty.
        seen: Newest question that a check has used; checks go on after it.
    """

    name: str
    model: str
    evaluation_suite: str
    interval_s: float = DEFAULT_INTERVAL_S
    sample_items: int = DEFAULT_SAMPLE_ITEMS
    alpha: float = DEFAULT_ALPHA
    paused: bool = False
    latest_report: str = ""
    seen: str = ""

    def reported(self, report: str, seen: str) -> DriftMonitor:
        """The monitor after a check."""
        return replace(self, latest_report=report, seen=seen)


@dataclass(frozen=True)
class DriftSignal:
    """One figure of a check against the first check's; as `mainspring.evaluation.v1.DriftSignal`."""

    signal: str
    reference_mean: float
    current_mean: float
    p_value: float
    adjusted_p_value: float
    alarm: bool


@dataclass(frozen=True)
class Figures:
    """The single measurements behind a signal, and which way is better."""

    values: tuple[float, ...]
    lower_is_better: bool = False


@dataclass(frozen=True)
class DriftReport:
    """What one check found; it never changes.

    Attributes:
        name: Resource name.
        monitor: Name of the monitor.
        number: Counts its reports, from 1.
        model_version: Version that served.
        items: Questions measured.
        create_time: When it was made.
        reference: Whether later reports of this version are compared with it.
        signals: One for each figure; empty for a reference.
        figures: The single measurements, of a reference only.
    """

    name: str
    monitor: str
    number: int
    model_version: str
    items: int
    create_time: datetime
    reference: bool = False
    signals: tuple[DriftSignal, ...] = ()
    figures: Mapping[str, Figures] = field(default_factory=dict[str, Figures])

    @property
    def alarms(self) -> tuple[str, ...]:
        """Signals that are alarms."""
        return tuple(signal.signal for signal in self.signals if signal.alarm)


@dataclass(frozen=True)
class Asked:
    """A question that somebody asked a released version, as it was answered.

    Attributes:
        name: Name of the answer; they go by time.
        model: Model asked.
        model_version: Version that answered.
        messages: What was asked, as role and text.
        text: What it said.
        latency_s: How long it took.
        output_tokens: Tokens generated.
        good: What a person thought of it; None when nobody said.
    """

    name: str
    model: str
    model_version: str
    messages: tuple[tuple[str, str], ...]
    text: str
    latency_s: float
    output_tokens: int
    good: bool | None = None


def is_worse(signal: str, reference: float, current: float, *, lower_is_better: bool) -> bool:
    """Whether a change is a loss; where neither way is better, any change is."""
    if signal in UNDIRECTED:
        return current != reference
    return current > reference if lower_is_better else current < reference
