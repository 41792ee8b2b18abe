from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.events.v1.registry_events_pb2 import ModelReleased
from mainspring_eventkit.catalog import event_messages, resource_of, subject_of, type_of
from mainspring_eventkit.cloudevents import (
    PROTOBUF,
    UndecodableEvent,
    decode,
    encode_body,
    headers_of,
    percent_decode,
    percent_encode,
)

RELEASED = ModelReleased(
    release="projects/p/models/m/releases/3",
    model="projects/p/models/m",
    model_version="projects/p/models/m/versions/7",
    release_number=3,
)


def headers(**changes: str) -> dict[str, str]:
    made = headers_of(
        id="0198c0de-0000-7000-8000-000000000000",
        type=type_of(RELEASED),
        source="/services/registry",
        subject=RELEASED.release,
        project="p",
        cycle="c",
        time=datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
        traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-00",
    )
    return {key: value for key, value in {**made, **changes}.items() if value}


def test_an_event_round_trips() -> None:
    event = decode(headers(), encode_body(RELEASED).encode())
    assert event.data == RELEASED
    assert (event.id, event.type, event.subject) == (headers()["ce-id"], type_of(RELEASED), RELEASED.release)
    assert (event.project, event.cycle) == ("p", "c")
    assert event.time == datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    assert headers()["ce-dataschema"] == "proto:mainspring.events.v1.ModelReleased"
    assert headers()["ce-time"] == "2026-11-23T12:00:00Z"


def test_protobuf_bodies_are_read() -> None:
    event = decode(headers(**{"ce-datacontenttype": PROTOBUF}), RELEASED.SerializeToString())
    assert event.data == RELEASED


def test_unknown_json_fields_are_ignored() -> None:
    body = encode_body(RELEASED)[:-1] + ',"addedLater":{"x":1}}'
    assert decode(headers(), body.encode()).data == RELEASED


@given(st.text())
def test_any_attribute_round_trips_through_printable_ascii(text: str) -> None:
    encoded = percent_encode(text)
    assert all("!" <= c <= "~" for c in encoded)
    assert percent_decode(encoded) == text


def test_the_binding_encodes_space_quote_percent_and_non_ascii() -> None:
    assert percent_encode('a "b" 100% é') == "a%20%22b%22%20100%25%20%C3%A9"


@pytest.mark.parametrize("broken", ["%", "%2", "%zz", "%ff", "%C3%28"])
def test_broken_escapes_are_refused(broken: str) -> None:
    with pytest.raises(UndecodableEvent) as caught:
        decode(headers(**{"ce-source": broken}), b"{}")
    assert caught.value.reason == "BAD_ATTRIBUTE"


@pytest.mark.parametrize(
    ("changes", "body", "reason"),
    [
        ({"ce-id": ""}, b"{}", "NOT_AN_EVENT"),
        ({"ce-specversion": "0.3"}, b"{}", "NOT_AN_EVENT"),
        ({"ce-type": "mainspring.registry.model.released.v2"}, b"{}", "UNKNOWN_TYPE"),
        ({"ce-datacontenttype": "text/plain"}, b"{}", "UNKNOWN_CONTENT_TYPE"),
        ({}, b"not json", "BAD_BODY"),
        ({}, b'{"releaseNumber": "x"}', "BAD_BODY"),
        ({}, b"\xff\xfe", "BAD_BODY"),
        ({}, b'{"release": ' + b"[" * 100_000, "BAD_BODY"),
        ({"ce-datacontenttype": PROTOBUF}, b"\x0a\xff", "BAD_BODY"),
        ({}, b" " * (2 << 20), "BODY_TOO_LARGE"),
        ({"ce-time": "yesterday"}, b"{}", "BAD_ATTRIBUTE"),
        ({"ce-project": "q"}, b"{}", "BAD_ATTRIBUTE"),
    ],
)
def test_f12_what_is_not_an_event_has_a_reason(changes: dict[str, str], body: bytes, reason: str) -> None:
    with pytest.raises(UndecodableEvent) as caught:
        decode(headers(**changes), body)
    assert caught.value.reason == reason


@given(st.dictionaries(st.text(), st.text()), st.binary())
def test_b1_any_message_is_an_event_or_undecodable(any_headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(UndecodableEvent):
        decode(any_headers, body)


@given(st.binary())
def test_b1_any_body_is_read_or_undecodable(body: bytes) -> None:
    for content_type in ("application/json", PROTOBUF):
        try:
            decode(headers(**{"ce-datacontenttype": content_type}), body)
        except UndecodableEvent as err:
            assert err.reason == "BAD_BODY"


def test_every_event_message_is_about_a_resource() -> None:
    assert len(event_messages()) >= 18
    for event_type, message in event_messages().items():
        assert event_type.startswith("mainspring.")
        assert event_type.endswith(".v1")
        assert message.DESCRIPTOR.fields[0].type == message.DESCRIPTOR.fields[0].TYPE_STRING
    assert resource_of(RELEASED) == "projects/p/models/m/releases/3"
    assert subject_of("p", type_of(RELEASED)) == "mainspring.events.p.registry.model.released.v1"
