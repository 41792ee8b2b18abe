"""What is known of a run beside its result: what it used, what it is made from, its curves. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any

from mainspring_svckit.values import ArtifactRef

SIGNALS_KEPT = 100
"""A run that tells more of itself than this keeps the newest."""


@dataclass(frozen=True)
class SystemMetric:
    """What a run's process used of its machine at one moment; see the contract's message of the same name."""

    cpu_percent: float
    memory_bytes: int
    gpu_percent: float = 0.0
    gpu_memory_bytes: int = 0


@dataclass(frozen=True)
class Consumption:
    """What one process has used since it began, with everything that it started."""

    cpu_s: float = 0.0
    gpu_s: float = 0.0
    gpu_joules: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0
    now: SystemMetric | None = None

    def beside(self, other: Consumption) -> Consumption:
        """With what other processes have used at the same time, on other machines; the time is this one's."""
        now = self.now or SystemMetric(0.0, 0)
        memory = now.memory_bytes + (other.now.memory_bytes if other.now else 0)
        return replace(
            self,
            cpu_s=self.cpu_s + other.cpu_s,
            peak_memory_bytes=max(self.peak_memory_bytes, other.peak_memory_bytes),
            now=replace(now, memory_bytes=memory) if self.now or other.now else None,
        )


@dataclass(frozen=True)
class Rates:
    """What computing takes and costs here; settings of the trainer."""

    watts_per_core: float = 0.0
    per_core_hour: float = 0.0
    per_gpu_hour: float = 0.0
    per_kwh: float = 0.0
    currency: str = ""

    def energy_wh(self, consumed: Consumption) -> float:
        """Energy: processor seconds times the watts of a core, and what the GPUs report."""
        return (consumed.cpu_s * self.watts_per_core + consumed.gpu_joules) / 3600

    def cost(self, consumed: Consumption) -> float:
        """Cost: hours of cores and GPUs, and the energy, times their rates."""
        hours = consumed.cpu_s / 3600 * self.per_core_hour + consumed.gpu_s / 3600 * self.per_gpu_hour
        return hours + self.energy_wh(consumed) / 1000 * self.per_kwh


@dataclass(frozen=True)
class Usage:
    """What a run has used over all its tries; see the contract's message of the same name."""

    cpu_s: float = 0.0
    gpu_s: float = 0.0
    wall_s: float = 0.0
    tokens: int = 0
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0
    energy_wh: float = 0.0
    cost: float = 0.0
    currency: str = ""

    def plus(self, consumed: Consumption, rates: Rates) -> Usage:
        """The usage with what another process has used."""
        return replace(
            self,
            cpu_s=self.cpu_s + consumed.cpu_s,
            gpu_s=self.gpu_s + consumed.gpu_s,
            wall_s=self.wall_s + consumed.wall_s,
            peak_memory_bytes=max(self.peak_memory_bytes, consumed.peak_memory_bytes),
            peak_gpu_memory_bytes=max(self.peak_gpu_memory_bytes, consumed.peak_gpu_memory_bytes),
            energy_wh=self.energy_wh + rates.energy_wh(consumed),
            cost=self.cost + rates.cost(consumed),
            currency=rates.currency,
        )


@dataclass(frozen=True)
class Environment:
    """The software that computes; empty digests when it could not be described."""

    code_sha256: str = ""
    environment_sha256: str = ""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Fingerprint:
    """What a run is made from."""

    data_sha256: str
    model_sha256: str
    environment: Environment = Environment()


def model_digest(files: Mapping[str, ArtifactRef], *adapter: ArtifactRef) -> str:
    """One digest for a base model's files, and an adapter's, by their names and digests."""
    named: list[Any] = sorted((name, file.sha256) for name, file in files.items())
    return hashlib.sha256(json.dumps([named, [file.sha256 for file in adapter]]).encode()).hexdigest()


@dataclass(frozen=True)
class RunSignal:
    """Something that a person should know."""

    name: str
    step: int
    message: str
    time: datetime


@dataclass(frozen=True)
class CurvePoint:
    """What a curve was over some steps; `step` is the last of them."""

    step: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One series of one run."""

    run: str
    series: str
    points: tuple[CurvePoint, ...]


def thinned(values: Iterable[tuple[int, float]], *, last_step: int, max_points: int) -> tuple[CurvePoint, ...]:
    """A curve with at most `max_points` points, each the mean of the values in its share of all steps.

    The shares depend on `last_step` and `max_points` only, so that curves of several runs lie over the same steps. Step
    0 is what was measured before learning, and stands alone.
    """
    width = max(1, -(-last_step // max(1, max_points - 1)))
    points: list[CurvePoint] = []
    for _, group in groupby(values, key=lambda value: -(-value[0] // width)):
        members = list(group)
        numbers = [value for _, value in members]
        points.append(CurvePoint(members[-1][0], sum(numbers) / len(numbers), min(numbers), max(numbers)))
    return tuple(points)


def differences(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Paths at which nested settings differ, with the value of each as JSON; null where one has none."""
    flat = [dict(_flat(item)) for item in settings]
    paths = sorted({path for item in flat for path in item})
    found = {path: [json.dumps(item.get(path), sort_keys=True) for item in flat] for path in paths}
    return {path: values for path, values in found.items() if len(set(values)) > 1}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType] - JSON.
        else:
            yield f"{prefix}{key}", item
