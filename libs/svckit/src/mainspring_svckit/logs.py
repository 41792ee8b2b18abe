"""JSON lines on stdout, with the trace and request they belong to, and without secrets.

Use `get_logger(__name__)` and events in lower_snake with fields: `log.info("run_claimed", run=name)`. Never log
prompts, answers, tokens or URLs with passwords; the redaction here is a net, not a licence.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from opentelemetry import trace

_SECRET_KEY = re.compile(r"(password|secret|token|authorization|api_?key|credential)", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^:/@\s]+:)[^@/\s]+@")
_MAX_VALUE = 4000


def configure_logging(service: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Sets up this process; called once, in `main.py`. A command whose answer goes to stdout logs to another stream."""
    numeric = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _add_trace,
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=True),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)  # Libraries below us; our own loggers stand under one parent.
    logging.getLogger("mainspring").setLevel(numeric)
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; cheap, made once a module."""
    return structlog.stdlib.get_logger(f"mainspring.{name}")


def _add_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = f"{span.trace_id:032x}"
    return event


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = "[redacted]"
        elif isinstance(value, str):
            clean = _URL_PASSWORD.sub(r"\1[redacted]@", value)
            event[key] = clean if len(clean) <= _MAX_VALUE else clean[:_MAX_VALUE] + "...[cut]"
    return event
