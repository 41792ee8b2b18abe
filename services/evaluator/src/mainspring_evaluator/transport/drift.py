"""Drift between the evaluator's domain and the contracts; pure functions."""

from __future__ import annotations

from mainspring.common.v1 import chat_pb2
from mainspring.evaluation.v1 import drift_pb2
from mainspring.events.v1 import inference_events_pb2
from mainspring_evaluator.domain.drift import (
    DEFAULT_ALPHA,
    DEFAULT_INTERVAL_S,
    DEFAULT_SAMPLE_ITEMS,
    Asked,
    DriftMonitor,
    DriftReport,
)
from mainspring_svckit.mapping import duration_to_proto, time_to_proto
from mainspring_svckit.names import ModelName, ModelVersionName
from mainspring_svckit.repository import Stored


def monitor_from_proto(message: drift_pb2.DriftMonitor) -> DriftMonitor:
    """Reads a monitor, with defaults for what is not set."""
    return DriftMonitor(
        name=message.name,
        model=message.model,
        evaluation_suite=message.evaluation_suite,
        interval_s=message.interval.ToNanoseconds() / 1e9 if message.HasField("interval") else DEFAULT_INTERVAL_S,
        sample_items=message.sample_items or DEFAULT_SAMPLE_ITEMS,
        alpha=message.alpha or DEFAULT_ALPHA,
        paused=message.paused,
    )


def monitor_to_proto(stored: Stored[DriftMonitor]) -> drift_pb2.DriftMonitor:
    """Prints a monitor."""
    monitor = stored.value
    return drift_pb2.DriftMonitor(
        name=monitor.name,
        model=monitor.model,
        evaluation_suite=monitor.evaluation_suite,
        interval=duration_to_proto(monitor.interval_s),
        sample_items=monitor.sample_items,
        alpha=monitor.alpha,
        paused=monitor.paused,
        latest_report=monitor.latest_report,
        update_time=time_to_proto(stored.update_time),
        etag=stored.etag,
    )


def report_to_proto(report: DriftReport) -> drift_pb2.DriftReport:
    """Prints a report."""
    return drift_pb2.DriftReport(
        name=report.name,
        model_version=report.model_version,
        items=report.items,
        reference=report.reference,
        signals=[
            drift_pb2.DriftSignal(
                signal=signal.signal,
                reference_mean=signal.reference_mean,
                current_mean=signal.current_mean,
                p_value=signal.p_value,
                adjusted_p_value=signal.adjusted_p_value,
                alarm=signal.alarm,
            )
            for signal in report.signals
        ],
        alarm=bool(report.alarms),
        create_time=time_to_proto(report.create_time),
    )


def asked_of(data: inference_events_pb2.ResponseCompleted) -> Asked:
    """Reads what a released version was asked."""
    version = ModelVersionName.parse(data.model_version)
    return Asked(
        name=data.answer,
        model=str(ModelName(version.project, version.model)),
        model_version=data.model_version,
        messages=tuple(
            (chat_pb2.ChatMessage.Role.Name(turn.role).removeprefix("ROLE_").lower(), turn.content)
            for turn in data.messages
        ),
        text=data.text,
        latency_s=data.latency.ToNanoseconds() / 1e9,
        output_tokens=data.usage.output_tokens,
    )
