"""docs/events/asyncapi.yaml says of the events what is so."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from mainspring_eventkit.catalog import event_messages, subject_of

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "contract" / "golden"
OFFICIAL = ROOT / "examples" / "node" / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "events" / "asyncapi.yaml").read_text())
GOLDEN_FILES = sorted(GOLDEN.glob("*/*.headers.json"))


def official() -> jsonschema.Draft7Validator:
    if not OFFICIAL.exists():
        pytest.fail("examples/node has no packages; 'make setup' installs them (npm ci)")
    return jsonschema.Draft7Validator(json.loads(OFFICIAL.read_text()))


def validator(schema: dict[str, Any]) -> jsonschema.Draft7Validator:
    """A validator of a schema inside the document, whose references are resolved there."""
    registry: Registry[Any] = Registry().with_resource("urn:events", Resource(DOCUMENT, DRAFT7))
    absolute = json.loads(json.dumps(schema).replace('"#/components', '"urn:events#/components'))
    return jsonschema.Draft7Validator(absolute, registry=registry, format_checker=jsonschema.FormatChecker())


def payload_schema(event_type: str) -> dict[str, Any]:
    (message,) = [m for m in DOCUMENT["components"]["messages"].values() if m["name"] == event_type]
    return message["payload"]


def test_it_is_valid_asyncapi_3() -> None:
    official().validate(DOCUMENT)


def test_the_official_schema_finds_a_broken_document() -> None:
    broken = copy.deepcopy(DOCUMENT)
    broken["operations"]["registry.model.released.v1"]["action"] = "shout"
    assert not official().is_valid(broken)


def test_every_event_type_has_a_channel_with_its_subject_and_an_example() -> None:
    channels = {key: channel["address"] for key, channel in DOCUMENT["channels"].items()}
    assert channels == {t.removeprefix("mainspring."): subject_of("{project}", t) for t in event_messages()}
    assert set(DOCUMENT["operations"]) == set(channels)
    messages = DOCUMENT["components"]["messages"].values()
    assert {m["name"] for m in messages if m["examples"]} == set(event_messages())


def test_every_message_field_and_enum_name_is_described() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["description"], name
        for field, inner in schema.get("properties", {}).items():
            assert inner["description"], f"{name}.{field}"


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_events_that_were_sent_fit_their_schemas(path: Path) -> None:
    headers = json.loads(path.read_text())
    validator(DOCUMENT["components"]["messageTraits"]["cloudEvent"]["headers"]).validate(headers)
    body = path.with_name(path.name.replace(".headers.json", ".json"))
    validator(payload_schema(path.parent.name)).validate(json.loads(body.read_text()))


@pytest.mark.parametrize(
    "change", [{"releaseNumber": 7}, {"results": [{"scorer": 3}]}, {"manifest": {"sizeBytes": "many"}}]
)
def test_a_payload_that_no_service_would_send_does_not_fit(change: dict[str, Any]) -> None:
    schema = validator(payload_schema("mainspring.registry.model.released.v1"))
    body = {"release": "projects/p/models/m/releases/1", **change}
    assert not schema.is_valid(body)
    assert not schema.is_valid({}), "the resource is always there"
