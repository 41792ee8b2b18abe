"""Our events are CloudEvents: the official Python SDK reads what we write, and we read what it writes.

The SDK has no binding for NATS; the one for HTTP maps attributes to headers and encodes them alike.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http, to_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from google.protobuf import json_format
from tests.contract.test_golden_events import CYCLE, ID, TIME, TRACEPARENT, cases, headers_for, read, sample

from mainspring.events.v1 import registry_events_pb2
from mainspring_eventkit.catalog import event_messages, resource_of
from mainspring_eventkit.cloudevents import UndecodableEvent, decode, encode_body


@pytest.mark.parametrize(("event_type", "case"), cases())
def test_the_sdk_reads_what_we_send(event_type: str, case: str) -> None:
    ours, body, headers = read(event_type, case)
    theirs = from_http(HTTPMessage(headers, body), JSONFormat())
    assert (theirs.get_specversion(), theirs.get_id(), theirs.get_type()) == ("1.0", ID, event_type)
    assert (theirs.get_source(), theirs.get_subject(), theirs.get_time()) == (ours.source, ours.subject, TIME)
    assert theirs.get_dataschema() == f"proto:{ours.data.DESCRIPTOR.full_name}"
    assert (theirs.get_extension("project"), theirs.get_extension("cycle")) == ("golden", CYCLE)
    assert theirs.get_data() == json.loads(body)


@pytest.mark.parametrize("event_type", sorted(event_messages()))
def test_we_read_what_the_sdk_sends(event_type: str) -> None:
    message = sample(event_messages()[event_type])
    attributes: dict[str, Any] = {
        "id": ID,
        "type": event_type,
        "source": "/backends/elsewhere",
        "subject": resource_of(message),
        "time": TIME,
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "project": "golden",
        "cycle": CYCLE,
    }
    sent = to_binary(CloudEvent(attributes, json_format.MessageToDict(message)), JSONFormat())
    heard = decode(sent.headers, sent.body)
    assert (heard.id, heard.type, heard.source, heard.subject) == (
        ID,
        event_type,
        "/backends/elsewhere",
        attributes["subject"],
    )
    assert (heard.time, heard.project, heard.cycle, heard.data) == (TIME, "golden", CYCLE, message)


def test_attributes_that_need_encoding_mean_the_same_to_both() -> None:
    message = registry_events_pb2.ModelReleased(release='projects/golden/models/naïve "100 %" 日本語/releases/1')
    headers = headers_for(message)
    theirs = from_http(HTTPMessage(headers, encode_body(message).encode()), JSONFormat())
    assert theirs.get_subject() == message.release
    attributes = {key: value for key, value in theirs.get_attributes().items() if value is not None}
    again = to_binary(CloudEvent(attributes, theirs.get_data()), JSONFormat())
    assert decode(again.headers, again.body).subject == message.release
    assert headers["traceparent"] == TRACEPARENT


def test_what_the_sdk_refuses_we_refuse() -> None:
    _, body, headers = read("mainspring.registry.model.released.v1", "001")
    # An id that is missing the SDK makes up; then an event would have another id at each delivery.
    for attribute in ("ce-type", "ce-source"):
        without = {key: value for key, value in headers.items() if key != attribute}
        with pytest.raises(Exception, match=attribute.removeprefix("ce-")):
            from_http(HTTPMessage(without, body), JSONFormat())
        with pytest.raises(UndecodableEvent, match=attribute.removeprefix("ce-")):
            decode(without, body)
