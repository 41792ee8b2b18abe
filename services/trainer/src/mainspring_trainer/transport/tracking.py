"""Between what is tracked of runs and the contract's messages; pure functions."""

from __future__ import annotations

from mainspring.training.v1 import tracking_pb2 as pb
from mainspring_svckit.mapping import time_to_proto
from mainspring_trainer.domain.tracking import Curve, Fingerprint, RunSignal, SystemMetric, Usage


def system_to_proto(metric: SystemMetric) -> pb.SystemMetric:
    """Prints what a process used."""
    return pb.SystemMetric(
        cpu_percent=metric.cpu_percent,
        memory_bytes=metric.memory_bytes,
        gpu_percent=metric.gpu_percent,
        gpu_memory_bytes=metric.gpu_memory_bytes,
    )


def usage_to_proto(usage: Usage) -> pb.Usage:
    """Prints what a run has used."""
    return pb.Usage(
        cpu_s=usage.cpu_s,
        gpu_s=usage.gpu_s,
        wall_s=usage.wall_s,
        tokens=usage.tokens,
        peak_memory_bytes=usage.peak_memory_bytes,
        peak_gpu_memory_bytes=usage.peak_gpu_memory_bytes,
        energy_wh=usage.energy_wh,
        cost=usage.cost,
        currency=usage.currency,
    )


def fingerprint_to_proto(fingerprint: Fingerprint) -> pb.Fingerprint:
    """Prints what a run is made from."""
    return pb.Fingerprint(
        code_sha256=fingerprint.environment.code_sha256,
        data_sha256=fingerprint.data_sha256,
        model_sha256=fingerprint.model_sha256,
        environment_sha256=fingerprint.environment.environment_sha256,
        versions=dict(fingerprint.environment.versions),
    )


def signal_to_proto(signal: RunSignal) -> pb.RunSignal:
    """Prints a signal."""
    return pb.RunSignal(name=signal.name, step=signal.step, message=signal.message, time=time_to_proto(signal.time))


def curve_to_proto(curve: Curve) -> pb.Curve:
    """Prints a curve."""
    points = [pb.CurvePoint(step=p.step, value=p.value, low=p.low, high=p.high) for p in curve.points]
    return pb.Curve(training_run=curve.run, series=curve.series, points=points)


def differences_to_proto(found: dict[str, list[str]]) -> list[pb.SettingDifference]:
    """Prints what differs."""
    return [pb.SettingDifference(path=path, values=values) for path, values in found.items()]
