"""Traces and metrics.

Traces cross services as W3C `traceparent`, through gRPC metadata and event headers, whether or not a collector is
configured; spans are recorded and sent only when it is. Metrics are Prometheus', in base units, with few labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter, Histogram

from mainspring_svckit.ids import new_id

_PROPAGATOR = TraceContextTextMapPropagator()

RPC_DURATION = Histogram(
    "mainspring_rpc_duration_seconds",
    "Time from a call's arrival to its end.",
    ["rpc", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
WORK_ENDED = Counter("mainspring_work_ended_total", "Leased work that ended, by outcome.", ["kind", "outcome"])

tracer = trace.get_tracer("mainspring")
SERVER = SpanKind.SERVER
CONSUMER = SpanKind.CONSUMER


def configure_tracing(service: str, otlp_endpoint: str) -> None:
    """Sends spans to a collector when there is one; without, recording is off and costs nothing.

    Raises:
        ModuleNotFoundError: An endpoint is set but the extra `mainspring-svckit[otlp]` is not installed.
    """
    if not otlp_endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource({"service.name": f"mainspring-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint)))
    trace.set_tracer_provider(provider)


def extract(carrier: Mapping[str, str]) -> Context:
    """The trace context that headers carry; a new trace when they carry none, so that every log line has a trace id."""
    context = _PROPAGATOR.extract(carrier)
    if trace.get_current_span(context).get_span_context().is_valid:
        return context
    digits = new_id().replace("-", "")
    fresh = SpanContext(int(digits, 16), int(digits[16:], 16), is_remote=False, trace_flags=TraceFlags(0))
    return trace.set_span_in_context(NonRecordingSpan(fresh), context)


def inject() -> dict[str, str]:
    """Headers that carry the current trace context: `traceparent`, and `tracestate` when there is one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier


def carrier_of(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """The textual part of gRPC metadata."""
    return {key: value for key, value in metadata if isinstance(value, str)}


def current_trace_id() -> str:
    """The current trace's id as 32 hexadecimal digits, or empty."""
    span = trace.get_current_span().get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else ""


def attach(context: Context) -> object:
    """Makes `context` current; give the result to `detach`."""
    return otel_context.attach(context)


def detach(token: object) -> None:
    """Ends what `attach` began."""
    otel_context.detach(token)  # type: ignore[arg-type]
