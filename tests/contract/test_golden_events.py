"""Events as they were once sent must be read for ever: `golden/<type>/<case>.json` is a body, `<case>.headers.json` its
headers; the NATS subject follows from project and type.

Files are only ever added: `UPDATE_GOLDEN=1 pytest tests/contract` writes what is missing, for new event types and for
new fields, and never touches one that is there.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mainspring_eventkit.catalog import event_messages, resource_of, subject_of, type_of
from mainspring_eventkit.cloudevents import Event, decode, encode_body, headers_of
from mainspring_svckit.names import project_of

GOLDEN = Path(__file__).parent / "golden"
TIME = datetime(2026, 11, 1, 12, 30, 15, 250_000, tzinfo=UTC)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ID = "01932f3e-7a1c-7c3a-9d55-0b6f0c1a2b3c"
CYCLE = "01932f3e-0000-7000-8000-000000000001"
# Texts that people and models write; everything that a careless encoder breaks.
TEXT = 'It says "100 %" — naïve, 日本語, 🙂\nsecond line \\ / <b>'
WORDS = {"caller", "content", "filename", "message", "reason", "reasons", "text"}
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c1572f4d0e5"


def cases() -> list[tuple[str, str]]:
    """Type and case of every golden file."""
    return [
        (path.parent.name, path.name.removesuffix(".headers.json")) for path in sorted(GOLDEN.glob("*/*.headers.json"))
    ]


def missing() -> dict[str, str]:
    """The case that has to be written, by type: no file yet, or fields that are set in none of its files."""
    wanted: dict[str, str] = {}
    for event_type, kind in event_messages().items():
        known = sorted(case for one, case in cases() if one == event_type)
        covered = {path for case in known for path in paths(read(event_type, case)[0].data)}
        if not paths(sample(kind)) <= covered:
            wanted[event_type] = f"{len(known) + 1:03d}"
    return wanted


def paths(message: Message, prefix: str = "") -> set[str]:
    """Every field that is set, at any depth."""
    found: set[str] = set()
    for descriptor, value in message.ListFields():
        path = f"{prefix}{descriptor.name}"
        found.add(path)
        if descriptor.message_type is not None:
            inner = (
                list(value.values()) if hasattr(value, "values") else list(value) if descriptor.is_repeated else [value]
            )
            for one in inner:
                found |= paths(one, f"{path}.") if isinstance(one, Message) else set()
    return found


@pytest.fixture(scope="session", autouse=True)
def golden() -> None:
    """Writes missing files when told to."""
    if not os.environ.get("UPDATE_GOLDEN"):
        return
    for event_type, case in missing().items():
        message = sample(event_messages()[event_type])
        folder = GOLDEN / event_type
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{case}.json").open("x") as body:
            body.write(encode_body(message) + "\n")
        with (folder / f"{case}.headers.json").open("x") as headers:
            headers.write(json.dumps(headers_for(message), indent=1) + "\n")


def headers_for(message: Message) -> dict[str, str]:
    """The headers with which the relay publishes it."""
    project = project_of(resource_of(message))
    assert project is not None
    return headers_of(
        id=ID,
        type=type_of(message),
        source=f"/services/{type_of(message).split('.')[1]}",
        subject=resource_of(message),
        project=project,
        cycle=CYCLE,
        time=TIME,
        traceparent=TRACEPARENT,
    )


def sample(kind: type[Message]) -> Message:
    """An event of a kind with every field set."""
    message = kind()
    fill(message, 0)
    resource = message.DESCRIPTOR.fields[0].name
    first, *rest = resource.split("_")
    collection = first + "".join(word.title() for word in rest)
    setattr(message, resource, f"projects/golden/{collection}s/a-1")
    return message


def fill(message: Message, depth: int) -> None:
    """Sets every field to a value that differs from its default."""
    assert depth < 5
    for number, descriptor in enumerate(message.DESCRIPTOR.fields, 1):
        if descriptor.message_type is None:
            value = scalar(descriptor, number)
            if descriptor.is_repeated:
                getattr(message, descriptor.name).extend([value, value])
            else:
                setattr(message, descriptor.name, value)
        elif descriptor.message_type.GetOptions().map_entry:
            held = descriptor.message_type.fields_by_name["value"]
            if held.message_type is None:
                getattr(message, descriptor.name)["adapter"] = scalar(held, number)
            else:
                fill(getattr(message, descriptor.name)["adapter"], depth + 1)
        elif descriptor.is_repeated:
            fill(getattr(message, descriptor.name).add(), depth + 1)
        else:
            fill(getattr(message, descriptor.name), depth + 1)


def scalar(descriptor: Any, number: int) -> Any:
    """A value for a field that is no message."""
    match descriptor.cpp_type:
        case FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64:
            # Beyond what a double holds, so a reader that takes the number for one is found out.
            return (1 << 53) + number if descriptor.name != "seconds" else number
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_UINT32:
            return number * 1000
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return number / 8
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_ENUM:
            assert descriptor.enum_type is not None
            return descriptor.enum_type.values[-1].number
        case _ if descriptor.name.endswith("sha256"):
            return SHA256
        case _:
            return TEXT if descriptor.name in WORDS else f"projects/golden/{descriptor.name}/{number}"


def read(event_type: str, case: str) -> tuple[Event, bytes, dict[str, str]]:
    """One golden event, as today's code reads it."""
    folder = GOLDEN / event_type
    body = (folder / f"{case}.json").read_bytes()
    headers = json.loads((folder / f"{case}.headers.json").read_text())
    return decode(headers, body), body, headers


def test_every_field_of_every_event_type_stands_in_a_golden_file() -> None:
    assert missing() == {}, "run 'UPDATE_GOLDEN=1 pytest tests/contract' and check the new files in"


def test_a_type_that_was_once_sent_is_never_forgotten() -> None:
    assert {event_type for event_type, _ in cases()} <= set(event_messages())


@pytest.mark.parametrize(("event_type", "case"), cases())
def test_old_bodies_are_read_without_loss(event_type: str, case: str) -> None:
    event, body, _ = read(event_type, case)
    assert type_of(event.data) == event_type
    # Written again it says the same: nothing was lost, renamed or turned into a number.
    assert json.loads(encode_body(event.data)) == json.loads(body)


@pytest.mark.parametrize(("event_type", "case"), cases())
def test_old_headers_are_read_and_written_alike(event_type: str, case: str) -> None:
    event, _, headers = read(event_type, case)
    assert (event.id, event.type, event.project, event.cycle) == (ID, event_type, "golden", CYCLE)
    assert event.subject == resource_of(event.data)
    assert event.time == TIME
    assert event.traceparent == TRACEPARENT
    assert headers_for(event.data) == headers
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-datacontenttype"] == "application/json"
    assert headers["ce-dataschema"] == f"proto:{event.data.DESCRIPTOR.full_name}"


@pytest.mark.parametrize(("event_type", "case"), cases())
def test_fields_of_a_newer_release_are_passed_over(event_type: str, case: str) -> None:
    event, body, headers = read(event_type, case)
    newer = {**json.loads(body), "fieldOfTomorrow": {"nested": [1, "two"]}, "anotherOne": 3}
    assert decode(headers, json.dumps(newer).encode()).data == event.data


@pytest.mark.parametrize(("event_type", "case"), cases())
def test_field_names_as_in_the_contract_and_protobuf_bodies_say_the_same(event_type: str, case: str) -> None:
    event, _, headers = read(event_type, case)
    snake = json_format.MessageToJson(event.data, preserving_proto_field_name=True).encode()
    assert decode(headers, snake).data == event.data
    binary = {**headers, "ce-datacontenttype": "application/protobuf"}
    assert decode(binary, event.data.SerializeToString()).data == event.data


def test_int64_travels_as_text_and_enums_by_name() -> None:
    _, body, _ = read("mainspring.data.dataset_version.published.v1", "001")
    assert isinstance(json.loads(body)["trainRows"], str)
    _, body, _ = read("mainspring.inference.response.completed.v1", "001")
    assert json.loads(body)["messages"][0]["role"].startswith("ROLE_")


@pytest.mark.parametrize("event_type", sorted(event_messages()))
def test_a_subject_is_the_project_and_the_type(event_type: str) -> None:
    _, _, kind = event_type.partition("mainspring.")
    assert subject_of("golden", event_type) == f"mainspring.events.golden.{kind}"
    assert kind.endswith(".v1")
