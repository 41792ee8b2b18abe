"""Writes docs/events/asyncapi.yaml, which describes all events for programs outside, from the contracts; or checks it.

usage: python tools/asyncapi.py write | check

Comments of the protos become descriptions, golden events become examples. Payload schemas are those of the messages'
canonical JSON: 64-bit integers are text, enums are names, fields at their default are left out, and later releases may
add fields.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import descriptor_pb2

from mainspring.events.v1 import event_type_pb2
from mainspring_eventkit.catalog import subject_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "events" / "asyncapi.yaml"
GOLDEN = ROOT / "tests" / "contract" / "golden"
DESCRIPTOR_SET = ROOT / ".build" / "mainspring.binpb"
SENDERS = {"data": "data-ingest", "embedding": "embedder", "evaluation": "evaluator", "training": "trainer"}
HEAD = "# Made by `make docs` from protos/ and tests/contract/golden; do not edit.\n"
_KIND = descriptor_pb2.FieldDescriptorProto
_NOT_FINITE = ["NaN", "Infinity", "-Infinity"]
_NUMBER: dict[str, Any] = {"oneOf": [{"type": "number"}, {"type": "string", "enum": _NOT_FINITE}]}
_INT64 = {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}
_UINT64 = {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}
_INT32 = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32 = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
SCALARS: dict[int, dict[str, Any]] = {
    _KIND.TYPE_BOOL: {"type": "boolean"},
    _KIND.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    _KIND.TYPE_STRING: {"type": "string"},
    **dict.fromkeys((_KIND.TYPE_DOUBLE, _KIND.TYPE_FLOAT), _NUMBER),
    **dict.fromkeys((_KIND.TYPE_INT32, _KIND.TYPE_SINT32, _KIND.TYPE_SFIXED32), _INT32),
    **dict.fromkeys((_KIND.TYPE_UINT32, _KIND.TYPE_FIXED32), _UINT32),
    **dict.fromkeys((_KIND.TYPE_INT64, _KIND.TYPE_SINT64, _KIND.TYPE_SFIXED64), _INT64),
    **dict.fromkeys((_KIND.TYPE_UINT64, _KIND.TYPE_FIXED64), _UINT64),
}
WELL_KNOWN: dict[str, dict[str, Any]] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
}


@dataclass(frozen=True)
class Declared:
    """A message or an enum of the contracts with its comments."""

    proto: Any
    comment: str
    comments: dict[int, str]


def contracts() -> dict[str, Declared]:
    """Every message and enum of the contracts by full name, with a leading dot as protobuf writes it."""
    subprocess.run([sys.executable, str(ROOT / "tools" / "protos.py"), "descriptors"], check=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())
    found: dict[str, Declared] = {}
    for file in files.file:
        if not file.name.startswith("mainspring/"):
            continue
        said = {tuple(where.path): _text(where.leading_comments) for where in file.source_code_info.location}
        found |= dict(_declared(file, f".{file.package}", (), said, messages=4, enums=5))
    return found


def _declared(
    scope: Any, prefix: str, path: tuple[int, ...], said: dict[tuple[int, ...], str], *, messages: int, enums: int
) -> Iterator[tuple[str, Declared]]:
    """What a file or a message declares, at any depth; `messages` and `enums` are their field numbers in `scope`."""
    nested: Any = scope.message_type if messages == 4 else scope.nested_type
    for index, message in enumerate(nested):
        here = (*path, messages, index)
        comments = {place: said.get((*here, 2, place), "") for place in range(len(message.field))}
        yield f"{prefix}.{message.name}", Declared(message, said.get(here, ""), comments)
        yield from _declared(message, f"{prefix}.{message.name}", here, said, messages=3, enums=4)
    for index, enum in enumerate(scope.enum_type):
        here = (*path, enums, index)
        comments = {place: said.get((*here, 2, place), "") for place in range(len(enum.value))}
        yield f"{prefix}.{enum.name}", Declared(enum, said.get(here, ""), comments)


def _text(comment: str) -> str:
    return " ".join(comment.split())


class Schemas:
    """JSON schemas of messages, collected as they are referred to."""

    def __init__(self, known: dict[str, Declared]) -> None:
        self._known = known
        self.made: dict[str, dict[str, Any]] = {}

    def refer(self, name: str) -> dict[str, Any]:
        """A reference to a message's or an enum's schema, which is made if it is missing."""
        key = name.removeprefix(".").removeprefix("mainspring.")
        if key not in self.made:
            self.made[key] = {}
            declared = self._known[name]
            is_enum = isinstance(declared.proto, descriptor_pb2.EnumDescriptorProto)
            self.made[key] = self._enum(declared) if is_enum else self._message(declared)
        return {"$ref": f"#/components/schemas/{key}"}

    def _enum(self, declared: Declared) -> dict[str, Any]:
        lines = [f"`{value.name}`: {declared.comments[n]}" for n, value in enumerate(declared.proto.value)]
        # Not an `enum`: a later release may have more names, and an old reader must take them.
        known = [value.name for value in declared.proto.value]
        return {"type": "string", "description": " ".join([declared.comment, *lines]), "examples": known}

    def _message(self, declared: Declared) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for place, field in enumerate(declared.proto.field):
            properties[field.json_name] = self._field(field, declared.comments[place])
        schema: dict[str, Any] = {"type": "object", "description": declared.comment, "properties": properties}
        if declared.proto.options.HasExtension(event_type_pb2.event_type):
            schema["required"] = [declared.proto.field[0].json_name]
        return schema

    def _field(self, field: Any, comment: str) -> dict[str, Any]:
        entry = self._known.get(field.type_name)
        said = {"description": comment} if comment else {}
        if entry is not None and getattr(entry.proto.options, "map_entry", False):
            return {"type": "object", "additionalProperties": self._value(entry.proto.field[1]), **said}
        value = self._value(field)
        if field.label == _KIND.LABEL_REPEATED:
            return {"type": "array", "items": value, **said}
        # Beside a reference nothing else counts, so the description stands around it.
        return {"allOf": [value], **said} if "$ref" in value and said else {**value, **said}

    def _value(self, field: Any) -> dict[str, Any]:
        if field.type_name in WELL_KNOWN:
            return copy.deepcopy(WELL_KNOWN[field.type_name])
        return self.refer(field.type_name) if field.type_name else copy.deepcopy(SCALARS[field.type])


def document() -> dict[str, Any]:
    """The whole description."""
    known = contracts()
    events: dict[str, tuple[str, Declared]] = {}
    for name, declared in sorted(known.items()):
        if isinstance(declared.proto, descriptor_pb2.DescriptorProto):
            event_type = declared.proto.options.Extensions[event_type_pb2.event_type]
            if event_type:
                events[event_type] = (name, declared)
    schemas = Schemas(known)
    messages = {declared.proto.name: _message(schemas, t, n, declared) for t, (n, declared) in sorted(events.items())}
    return {
        "asyncapi": "3.0.0",
        "info": _info(),
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": {_key(event_type): _channel(event_type, d) for event_type, (_, d) in sorted(events.items())},
        "operations": {_key(event_type): _operation(event_type, d) for event_type, (_, d) in sorted(events.items())},
        "components": {
            "messages": messages,
            "messageTraits": {"cloudEvent": _trait()},
            "parameters": {"project": {"description": "Project id: the tenant that the event belongs to."}},
            "schemas": dict(sorted(schemas.made.items())),
            "securitySchemes": {"user": {"type": "userPassword", "description": "A user of the bus."}},
        },
    }


def _info() -> dict[str, Any]:
    manifest = tomllib.loads((ROOT / "libs" / "contracts" / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        "title": "Mainspring events",
        "version": manifest["project"]["version"],
        "description": (
            "What Mainspring's services tell, as CloudEvents 1.0 in binary mode on NATS JetStream, stream"
            " MAINSPRING_EVENTS. Each event is delivered at least once: programs keep the ids that they have handled."
            " Events about the releases of one model come in the order of their numbers. Kept for 30 days, so that a"
            " durable consumer which was away misses nothing. Readers pass over fields, enum names and types that they"
            " do not know; a change that old readers cannot take is a new type."
        ),
        "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
    }


def _servers() -> dict[str, Any]:
    return {
        "bus": {
            "host": "{host}",
            "protocol": "nats",
            "description": "The bus. The local stack keeps a subscriber's URL in the file `nats-subscriber-url`.",
            "variables": {"host": {"default": "127.0.0.1:4222", "description": "Host and port of a NATS server."}},
            "security": [{"$ref": "#/components/securitySchemes/user"}],
        }
    }


def _key(event_type: str) -> str:
    """`registry.model.released.v1`: the type as a name inside the document."""
    return event_type.removeprefix("mainspring.")


def _channel(event_type: str, declared: Declared) -> dict[str, Any]:
    return {
        "address": subject_of("{project}", event_type),
        "description": declared.comment,
        "parameters": {"project": {"$ref": "#/components/parameters/project"}},
        "messages": {declared.proto.name: {"$ref": f"#/components/messages/{declared.proto.name}"}},
    }


def _operation(event_type: str, declared: Declared) -> dict[str, Any]:
    area = event_type.split(".")[1]
    channel = f"#/channels/{_key(event_type)}"
    return {
        "action": "send",
        "channel": {"$ref": channel},
        "summary": f"{SENDERS.get(area, area)} tells it.",
        "messages": [{"$ref": f"{channel}/messages/{declared.proto.name}"}],
    }


def _message(schemas: Schemas, event_type: str, name: str, declared: Declared) -> dict[str, Any]:
    examples: list[dict[str, Any]] = []
    for path in sorted((GOLDEN / event_type).glob("*.headers.json")):
        body = path.with_name(path.name.replace(".headers.json", ".json"))
        examples.append({"name": body.stem, "headers": _json(path), "payload": _json(body)})
    return {
        "name": event_type,
        "title": declared.proto.name,
        "summary": declared.comment,
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
        "payload": schemas.refer(name),
        **({"examples": examples} if examples else {}),
    }


def _trait() -> dict[str, Any]:
    """What the headers of every event are: attributes of CloudEvents, percent-encoded."""
    described = {
        "ce-specversion": {"const": "1.0", "description": "Version of CloudEvents."},
        "ce-id": {"description": "Id of the event; the same however often it is delivered. Also in `Nats-Msg-Id`."},
        "ce-type": {"pattern": r"^mainspring\.[a-z0-9_.]+\.v[0-9]+$", "description": "Type of the event."},
        "ce-source": {"pattern": "^/services/[a-z-]+$", "description": "Service that tells it."},
        "ce-subject": {"description": "Name of the resource that the event is about; the payload's first field."},
        "ce-time": {"format": "date-time", "description": "When it happened."},
        "ce-datacontenttype": {
            "enum": ["application/json", "application/protobuf"],
            "description": "How the payload is written. The services write JSON.",
        },
        "ce-dataschema": {"pattern": "^proto:", "description": "Full name of the payload's message in the contracts."},
        "ce-project": {"description": "Project id; also in the subject."},
        "ce-cycle": {"description": "Turn of the loop that the event belongs to (a UUID); absent outside turns."},
        "traceparent": {"description": "W3C trace context of the change that the event tells of."},
    }
    return {
        "description": "Attributes of CloudEvents 1.0 as headers, percent-encoded as the binding for NATS wants it.",
        "headers": {
            "type": "object",
            "required": ["ce-specversion", "ce-id", "ce-type", "ce-source", "ce-subject", "ce-time", "ce-project"],
            "properties": {name: {"type": "string", **schema} for name, schema in described.items()},
        },
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def page() -> str:
    """The document as YAML."""
    return HEAD + yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=120)


def main() -> None:
    match sys.argv[1:]:
        case ["write"]:
            PAGE.parent.mkdir(parents=True, exist_ok=True)
            PAGE.write_text(page(), encoding="utf-8")
        case ["check"]:
            if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
                sys.exit("docs/events/asyncapi.yaml is not what the contracts say; run `make docs`")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
