"""The one encoder and the one decoder of events: CloudEvents 1.0, NATS protocol binding, binary content mode.

Attributes travel as headers `ce-...`, percent-encoded where the binding wants it; the body is the event's protobuf
message as JSON (`application/json`), or as protobuf (`application/protobuf`), which is read but not written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from mainspring_eventkit.catalog import event_messages
from mainspring_svckit.names import project_of

JSON = "application/json"
PROTOBUF = "application/protobuf"
MAX_BODY_BYTES = 1 << 20
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class UndecodableEvent(Exception):
    """The message is not an event that we know; `reason` says why. Delivering it again cannot help."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Event:
    """An event as handlers get it.

    Attributes:
        id: UUID; the same event has the same id however often it is delivered.
        type: CloudEvents type, `mainspring.<area>.<resource>.<past participle>.v1`.
        source: Service that tells it, `/services/registry`.
        subject: Resource that it is about.
        project: Project that the resource belongs to.
        cycle: Turn of the loop, or empty.
        time: When it happened.
        data: The event's message.
        traceparent: W3C trace context, or empty.
    """

    id: str
    type: str
    source: str
    subject: str
    project: str
    cycle: str
    time: datetime
    data: Message
    traceparent: str = ""


def encode_body(data: Message) -> str:
    """The body of an event: canonical JSON of the message, without fields at their default."""
    return json_format.MessageToJson(data, indent=None, ensure_ascii=False)


def headers_of(
    *,
    id: str,  # noqa: A002 - the attribute's own name.
    type: str,  # noqa: A002 - as above.
    source: str,
    subject: str,
    project: str,
    cycle: str,
    time: datetime,
    traceparent: str,
) -> dict[str, str]:
    """The headers of an event whose body is JSON."""
    attributes = {
        "specversion": "1.0",
        "id": id,
        "type": type,
        "source": source,
        "subject": subject,
        "time": time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": JSON,
        "dataschema": _schema_of(type),
        "project": project,
        "cycle": cycle,
    }
    headers = {f"ce-{key}": percent_encode(value) for key, value in attributes.items() if value}
    if traceparent:
        headers["traceparent"] = traceparent
    return headers


def decode(headers: Mapping[str, str] | None, body: bytes) -> Event:
    """Reads an event.

    Raises:
        UndecodableEvent: With a reason: NOT_AN_EVENT, BAD_ATTRIBUTE, UNKNOWN_TYPE, UNKNOWN_CONTENT_TYPE, BAD_BODY,
        BODY_TOO_LARGE.
    """
    attributes = _attributes(headers or {})
    missing = [key for key in ("id", "type", "source") if not attributes.get(key)]
    if missing or attributes.get("specversion") != "1.0":
        raise UndecodableEvent("NOT_AN_EVENT", f"lacks {', '.join(missing) or 'specversion 1.0'}")
    message_type = event_messages().get(attributes["type"])
    if message_type is None:
        raise UndecodableEvent("UNKNOWN_TYPE", attributes["type"])
    if len(body) > MAX_BODY_BYTES:
        raise UndecodableEvent("BODY_TOO_LARGE", f"{len(body)} bytes")
    subject, project = attributes.get("subject", ""), attributes.get("project", "")
    if project_of(subject) != (project or None):
        raise UndecodableEvent("BAD_ATTRIBUTE", f"subject {subject[:200]!r} is not of project {project[:80]!r}")
    return Event(
        id=attributes["id"],
        type=attributes["type"],
        source=attributes["source"],
        subject=subject,
        project=project,
        cycle=attributes.get("cycle", ""),
        time=_time(attributes.get("time", "")),
        data=_data(message_type, attributes.get("datacontenttype", JSON), body),
        traceparent=(headers or {}).get("traceparent", ""),
    )


def percent_encode(value: str) -> str:
    """Encodes an attribute for a header: space, double quote, percent and all but printable ASCII, as UTF-8."""
    return "".join(c if "!" <= c <= "~" and c not in '"%' else _escape(c) for c in value)


def percent_decode(value: str) -> str:
    """Reads what `percent_encode` wrote.

    Raises:
        ValueError: A broken escape, or bytes that are not UTF-8.
    """
    if _BROKEN_ESCAPE.search(value):
        raise ValueError("a percent sign without two hexadecimal digits")
    return unquote_to_bytes(value).decode()


def _schema_of(event_type: str) -> str:
    """The full name of the event's message, as a URI; empty for a type that this release does not know."""
    message = event_messages().get(event_type)
    return f"proto:{message.DESCRIPTOR.full_name}" if message else ""


def _attributes(headers: Mapping[str, str]) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for key, value in headers.items():
        if key.lower().startswith("ce-"):
            try:
                attributes[key.lower()[3:]] = percent_decode(value)
            except ValueError as err:
                raise UndecodableEvent("BAD_ATTRIBUTE", f"{key}: {err}") from err
    return attributes


def _escape(c: str) -> str:
    return "".join(f"%{byte:02X}" for byte in c.encode())


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)
    except ValueError as err:
        raise UndecodableEvent("BAD_ATTRIBUTE", "ce-time is not RFC 3339") from err
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _data(message_type: type[Message], content_type: str, body: bytes) -> Message:
    try:
        match content_type.partition(";")[0].strip().lower():
            case "application/json":
                return json_format.Parse(body, message_type(), ignore_unknown_fields=True, max_recursion_depth=50)
            case "application/protobuf":
                return message_type.FromString(body)
            case other:
                raise UndecodableEvent("UNKNOWN_CONTENT_TYPE", other[:100])
    except (json_format.ParseError, DecodeError, UnicodeDecodeError, RecursionError, ValueError) as err:
        raise UndecodableEvent("BAD_BODY", str(err)[:300]) from err
