"""What the contracts say about RPCs and messages, read from their descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from buf.validate import validate_pb2
from mainspring.common.v1 import access_pb2
from mainspring_svckit.names import project_of

# Importing the module registers the extension `buf.validate.field`, which is looked up by name below.
assert validate_pb2.DESCRIPTOR.name == "buf/validate/validate.proto"


@dataclass(frozen=True)
class Rpc:
    """One RPC as its contract declares it.

    Attributes:
        name: For example `mainspring.registry.v1.RegistryService/GetModel`.
        required_role: Lower-case role, or empty when none is declared (then nobody may call it).
        mutates: Whether it takes a `request_id`.
        response_type: Class of its answers.
    """

    name: str
    required_role: str
    mutates: bool
    response_type: type[Message]


@cache
def rpc_of(method: str) -> Rpc | None:
    """The RPC that a gRPC method path (`/package.Service/Method`) names; None for methods outside our contracts."""
    path = method.lstrip("/")
    try:
        found = descriptor_pool.Default().FindMethodByName(path.replace("/", "."))
    except KeyError:
        return None
    role = found.GetOptions().Extensions[access_pb2.required_role]
    return Rpc(
        name=path,
        required_role=access_pb2.Role.Name(role).removeprefix("ROLE_").lower() if role else "",
        mutates="request_id" in found.input_type.fields_by_name,
        response_type=message_factory.GetMessageClass(found.output_type),
    )


def projects_in(message: Message) -> Iterator[str]:
    """The projects of all resource names in a request, wherever they stand.

    Which fields hold names is read from their validation pattern; free text is never looked at.
    """
    for path in _name_fields(message.DESCRIPTOR):
        for value in _values(message, path):
            project = project_of(value)
            if project is not None:
                yield project


def _values(message: Message, path: tuple[FieldDescriptor, ...]) -> Iterator[str]:
    field, rest = path[0], path[1:]
    if rest and not field.is_repeated and not message.HasField(field.name):
        return
    value: Any = getattr(message, field.name)
    for element in value if field.is_repeated else [value]:
        if rest:
            yield from _values(element, rest)
        else:
            yield element


@cache
def _name_fields(descriptor: Descriptor) -> tuple[tuple[FieldDescriptor, ...], ...]:
    return tuple(_find_name_fields(descriptor, ()))


def _find_name_fields(descriptor: Descriptor, seen: tuple[str, ...]) -> Iterator[tuple[FieldDescriptor, ...]]:
    rules: Any = descriptor_pool.Default().FindExtensionByName("buf.validate.field")
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            rule = field.GetOptions().Extensions[rules]
            pattern: str = (rule.repeated.items if field.is_repeated else rule).string.pattern
            if pattern.startswith(("^projects/", "^(projects/")):
                yield (field,)
        inner = field.message_type
        if inner is not None and inner.full_name not in seen and not inner.GetOptions().map_entry:
            for path in _find_name_fields(inner, (*seen, descriptor.full_name)):
                yield (field, *path)
