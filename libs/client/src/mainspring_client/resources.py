"""Short ids to resource names, read from the contracts: what a field expects stands in its validation pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from buf.validate import validate_pb2
from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.names import ProjectName, ResourceName, is_id, project_of

# Importing the modules registers the options that are looked up below.
assert validate_pb2.DESCRIPTOR.name == "buf/validate/validate.proto"
_PLACE = "[^/]+"


def expand(kind: type[ResourceName], project: str, text: str, field: str = "name") -> str:
    """The name of a resource that a person named shortly.

    `summaries` is a model of the project, `summaries/3` its version 3, `summaries@champion` an alias; names with
    `projects/` stay as they are, when they are of this kind.

    Raises:
        InvalidInput: `text` is neither short nor a name of this kind; the violation names `field`.
    """
    return _expand(re.sub(r"\{\w+\}", _PLACE, kind.template), project, text, field)


def expand_version(kind: type[ResourceName], project: str, text: str) -> str:
    """The name of a version or of a label of what has versions: `summaries/3`, `summaries@production`."""
    if text.startswith("projects/"):
        return text
    line, at, label = text.partition("@")
    line, slash, version = (line, "", "") if at else text.partition("/")
    return expand(kind, project, line) + (f"{at}{label}" if at else f"{slash and '/versions/'}{version}")


def expand_model(project: str, text: str, field: str = "model") -> str:
    """The name of a model, of one of its versions or of an alias: `summaries`, `summaries/3`, `summaries@champion`."""
    if text.startswith("projects/"):
        return text
    model, slash, version = text.partition("/")
    name = f"{ProjectName(project)}/models/{model}"
    if not slash and is_id(model.partition("@")[0]):
        return name
    if is_id(model) and is_id(version):
        return f"{name}/versions/{version}"
    raise _wrong(text, "MODEL, MODEL/VERSION or MODEL@ALIAS", field)


def expand_fields(message: Message, project: str, section: str) -> None:
    """Expands every short name in a message and in the messages that it holds.

    Raises:
        InvalidInput: Some cannot be names of what their fields hold, or are of another project; the violations give
            the paths.
    """
    violations = list(_expand_all(message, project, section))
    if violations:
        raise InvalidInput(f"{section} has names that cannot be", violations=violations)


def _expand_all(message: Any, project: str, section: str) -> Iterator[FieldViolation]:
    for field, inner in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry or is_output_only(field):
            continue
        several = list(inner) if field.is_repeated else [inner]
        for number, element in enumerate(several):
            path = f"{section}.{field.name}" + (f"[{number}]" if field.is_repeated else "")
            yield from _expand_all(element, project, path)
    for field, pattern in _name_fields(message.DESCRIPTOR):
        value: str = getattr(message, field)
        if not value:
            continue
        path = f"{section}.{'id' if field == 'name' else field}"
        try:
            name = _expand(pattern, project, value, path)
            if project_of(name) != project:
                raise _wrong(value, f"a name in projects/{project}", path)
        except InvalidInput as err:
            yield from err.violations
        else:
            setattr(message, field, name)


def without_output_only(message: Any) -> Any:
    """A copy without what only the server writes."""
    copy = type(message)()
    copy.CopyFrom(message)
    for field in copy.DESCRIPTOR.fields:
        if is_output_only(field):
            copy.ClearField(field.name)
    return copy


def is_output_only(field: Any) -> bool:
    """Whether only the server writes a field."""
    return field_behavior_pb2.OUTPUT_ONLY in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def _expand(pattern: str, project: str, text: str, field: str) -> str:
    """Fills a pattern (`projects/[^/]+/models/[^/]+/versions/[^/]+`) with the parts of a short name."""
    if text.startswith("projects/"):
        if re.fullmatch(pattern, text):
            return text
        raise _wrong(text, pattern.replace(_PLACE, "..."), field)
    wanted = pattern.count(_PLACE) - 1
    parts = text.split("/")
    if len(parts) != wanted or not all(is_id(part.partition("@")[0]) for part in parts):
        form = f"{'/'.join(['ID'] * wanted)} (ids of lower-case letters, digits, hyphens), nor like"
        raise _wrong(text, f"{form} {pattern.replace(_PLACE, '...')}", field)
    name = pattern.replace(_PLACE, str(ProjectName(project).project), 1)
    for part in parts:
        name = name.replace(_PLACE, part, 1)
    return name


@cache
def _name_fields(descriptor: Descriptor) -> tuple[tuple[str, str], ...]:
    return tuple(_find_name_fields(descriptor))


def _find_name_fields(descriptor: Descriptor) -> Iterator[tuple[str, str]]:
    rules: Any = descriptor_pool.Default().FindExtensionByName("buf.validate.field")
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            pattern: str = field.GetOptions().Extensions[rules].string.pattern
            # A pattern in brackets with a question mark allows an empty value beside the name.
            pattern = pattern.removeprefix("^").removesuffix("$").removeprefix("(").removesuffix(")?")
            if pattern.startswith("projects/"):
                yield field.name, pattern


def _wrong(text: str, right: str, field: str) -> InvalidInput:
    description = f"{text[:200]!r} is not like {right}"
    return InvalidInput(f"{field}: {description}", violations=[FieldViolation(field, description)])
