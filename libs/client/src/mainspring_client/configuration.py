"""`flywheel.yaml`: a project's part of each service, in one document.

    project: demo
    ingestion_recipe:
      id: summaries
      dataset: summaries
      columns: {input_column: code, target_column: summary}
    tuning_recipe: {id: summaries, dataset: summaries, base_model_version: smollm2/1, model: summaries, ...}

Each section is the JSON form of a message of the contracts; names may be short. Every section is optional.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from mainspring.data.v1 import data_service_pb2, data_service_pb2_grpc, recipe_pb2
from mainspring.evaluation.v1 import evaluation_service_pb2, evaluation_service_pb2_grpc, suite_pb2
from mainspring.feedback.v1 import feedback_pb2, feedback_service_pb2, feedback_service_pb2_grpc
from mainspring.inference.v1 import deployment_service_pb2, deployment_service_pb2_grpc, rollout_pb2
from mainspring.registry.v1 import (
    guard_policy_pb2,
    guard_policy_service_pb2,
    guard_policy_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    release_pb2,
)
from mainspring.training.v1 import recipe_pb2 as tuning_pb2
from mainspring.training.v1 import training_service_pb2, training_service_pb2_grpc
from mainspring_client.connection import Connection
from mainspring_client.resources import expand, expand_fields, is_output_only, without_output_only
from mainspring_svckit.errors import FieldViolation, InvalidInput, MainspringError, NotFound
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import GuardPolicyName, ResourceName, is_id

_MAX_BYTES = 1 << 20
MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True)
class _Section:
    """Which message a section holds, and which service keeps it under which RPCs."""

    message: type[Message]
    service: str
    requests: Any
    stub: Any
    line: type[ResourceName] | None = None
    """Set where the section is one version of a line, and the id is the line's."""

    @property
    def rpc(self) -> str:
        return self.message.DESCRIPTOR.name


# In the order in which they are applied: what others name comes first.
_SECTIONS: dict[str, _Section] = {
    "ingestion_recipe": _Section(
        recipe_pb2.IngestionRecipe, "data-ingest", data_service_pb2, data_service_pb2_grpc.DataServiceStub
    ),
    "tuning_recipe": _Section(
        tuning_pb2.TuningRecipe, "trainer", training_service_pb2, training_service_pb2_grpc.TrainingServiceStub
    ),
    "evaluation_suite": _Section(
        suite_pb2.EvaluationSuite,
        "evaluator",
        evaluation_service_pb2,
        evaluation_service_pb2_grpc.EvaluationServiceStub,
    ),
    "guard_policy": _Section(
        guard_policy_pb2.GuardPolicyVersion,
        "registry",
        guard_policy_service_pb2,
        guard_policy_service_pb2_grpc.GuardPolicyServiceStub,
        GuardPolicyName,
    ),
    "release_policy": _Section(
        release_pb2.ReleasePolicy, "registry", registry_service_pb2, registry_service_pb2_grpc.RegistryServiceStub
    ),
    "rollout_policy": _Section(
        rollout_pb2.RolloutPolicy,
        "inference",
        deployment_service_pb2,
        deployment_service_pb2_grpc.DeploymentServiceStub,
    ),
    "retraining_trigger": _Section(
        feedback_pb2.RetrainingTrigger,
        "feedback",
        feedback_service_pb2,
        feedback_service_pb2_grpc.FeedbackServiceStub,
    ),
}


@dataclass(frozen=True)
class Configuration:
    """A project's configuration, checked for its form; the services check the rest.

    Attributes:
        project: Project id.
        sections: Message by section, with full resource names.
    """

    project: str
    sections: Mapping[str, Message] = field(default_factory=dict[str, Message])

    @classmethod
    def load(cls, path: Path) -> Configuration:
        """Reads a file.

        Raises:
            InvalidInput: It cannot be read, or is wrong; the violations name the keys.
        """
        return cls.parse(load_document(path))

    @classmethod
    def parse(cls, document: Any) -> Configuration:
        """Reads a document that was loaded already.

        Raises:
            InvalidInput: CONFIGURATION_INVALID; the violations name the keys, all at once.
        """
        if not isinstance(document, dict):
            raise _invalid([FieldViolation("", "the document must be a mapping with 'project' and sections")])
        given = cast("dict[str, Any]", document)
        violations = [
            FieldViolation(str(key), f"is not known; there are project, {', '.join(_SECTIONS)}")
            for key in given
            if key != "project" and key not in _SECTIONS
        ]
        project = given.get("project", "")
        if not isinstance(project, str) or not is_id(project.removeprefix("projects/")):
            violations.append(FieldViolation("project", "must be 1 to 63 lower-case letters, digits and hyphens"))
            raise _invalid(violations)
        project = project.removeprefix("projects/")
        sections: dict[str, Message] = {}
        for name, section in _SECTIONS.items():
            if given.get(name) is None:
                continue
            try:
                sections[name] = _read_section(name, section, project, given[name])
            except InvalidInput as err:
                violations += err.violations
        if violations:
            raise _invalid(violations)
        return cls(project, sections)


def load_document(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
        InvalidInput: It cannot be read, or is not YAML.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidInput(f"{path} is larger than 1 MiB; is it the right file?", reason="FILE_UNREADABLE")
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidInput(f"{path} cannot be read: {err}", reason="FILE_UNREADABLE") from err
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader, made stricter.
    except (yaml.YAMLError, RecursionError) as err:
        raise InvalidInput(f"{path} is not YAML: {err}", reason="CONFIGURATION_INVALID") from err


def with_settings(document: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A document with fields set by their paths: `lora.rank=8`, `checks.canaries=[a, b]`; later ones win.

    Values are YAML's; what would be a mapping, or is not YAML, is text.

    Raises:
        InvalidInput: A setting is no PATH=VALUE.
    """
    made = dict(document)
    for setting in settings:
        path, equals, value = setting.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            description = f"{setting[:200]!r} is not like PATH=VALUE, as lora.rank=8"
            raise InvalidInput(f"set: {description}", violations=[FieldViolation("set", description)])
        inner = made
        for name in names[:-1]:
            known = inner.get(name)
            inner[name] = dict(cast("dict[str, Any]", known)) if isinstance(known, dict) else {}
            inner = inner[name]
        inner[names[-1]] = _value(value)
    return made


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return text
    return value if value is None or isinstance(value, bool | int | float | str | list) else text


def read_message(kind: type[MessageT], given: Any, path: str) -> MessageT:
    """The message of the contracts that a document is the JSON form of; `path` says where it stands.

    Raises:
        InvalidInput: CONFIGURATION_INVALID; the violations name the keys.
    """
    if not isinstance(given, dict):
        raise _invalid([FieldViolation(path, "must be a mapping")])
    values = cast("dict[str, Any]", given)
    if unknown := list(_unknown_keys(values, kind.DESCRIPTOR, path)):
        raise _invalid(unknown)
    try:
        return json_format.ParseDict(values, kind())
    except json_format.ParseError as err:
        raise _invalid([FieldViolation(path, str(err))]) from err


@dataclass(frozen=True)
class Change:
    """What applying did to one resource: `created`, `changed` or `unchanged`."""

    section: str
    name: str
    outcome: str


async def apply(connection: Connection, configuration: Configuration) -> list[Change]:
    """Writes every section; what is there already is left alone.

    Raises:
        MainspringError: What a service said; a note names the section. Sections before it stay written.
    """
    changes: list[Change] = []
    async for change in _apply_each(connection, configuration):
        changes.append(change)
    return changes


async def _apply_each(connection: Connection, configuration: Configuration) -> AsyncIterator[Change]:
    for name, wanted in configuration.sections.items():
        section = _SECTIONS[name]
        put = _apply_one if section.line is None else _apply_version
        try:
            outcome = await put(connection, section, name, wanted)
        except MainspringError as err:
            err.add_note(f"while applying {name}")
            raise
        yield Change(name, getattr(wanted, "name"), outcome)  # noqa: B009 - every section's message has a name.


async def _apply_one(connection: Connection, section: _Section, field: str, wanted: Any) -> str:
    stub, requests, rpc = section.stub(connection.channel(section.service)), section.requests, section.rpc
    try:
        read = await connection.caller.unary(
            getattr(stub, f"Get{rpc}"),
            getattr(requests, f"Get{rpc}Request")(name=wanted.name),
            getattr(requests, f"Get{rpc}Response"),
            timeout_s=30,
        )
        present = getattr(read, field)
    except NotFound:
        present = None
    message = type(wanted)()
    message.CopyFrom(wanted)
    if present is not None:
        if without_output_only(present) == without_output_only(wanted):
            return "unchanged"
        message.etag = wanted.etag or present.etag
    written = await connection.caller.unary(
        getattr(stub, f"Update{rpc}"),
        getattr(requests, f"Update{rpc}Request")(**{field: message}, allow_missing=True, request_id=new_id()),
        getattr(requests, f"Update{rpc}Response"),
        timeout_s=30,
    )
    if present is None:
        return "created"
    # A service fills in defaults, so the comparison that counts is of what it keeps.
    same = without_output_only(getattr(written, field)) == without_output_only(present)
    return "unchanged" if same else "changed"


async def _apply_version(connection: Connection, section: _Section, field: str, wanted: Any) -> str:
    """Writes a version of a line unless the newest one says the same."""
    stub, requests, rpc = section.stub(connection.channel(section.service)), section.requests, section.rpc
    listed = await connection.caller.unary(
        getattr(stub, f"List{rpc}s"),
        getattr(requests, f"List{rpc}sRequest")(parent=wanted.name, page_size=1),
        getattr(requests, f"List{rpc}sResponse"),
        timeout_s=30,
    )
    newest = next(iter(getattr(listed, f"{field}_versions")), None)
    written = await connection.caller.unary(
        getattr(stub, f"Create{rpc}"),
        getattr(requests, f"Create{rpc}Request")(
            parent=wanted.name, request_id=new_id(), **{f"{field}_version": without_output_only(wanted)}
        ),
        getattr(requests, f"Create{rpc}Response"),
        timeout_s=30,
    )
    if newest is None:
        return "created"
    return "unchanged" if getattr(written, f"{field}_version").name == newest.name else "changed"


def _read_section(name: str, section: _Section, project: str, given: Any) -> Message:
    if not isinstance(given, dict):
        raise _invalid([FieldViolation(name, "must be a mapping")])
    values = dict(cast("dict[str, Any]", given))
    if "id" in values:
        if "name" in values:
            raise _invalid([FieldViolation(f"{name}.id", "give either id or name")])
        values["name"] = values.pop("id")
    if not isinstance(values.get("name"), str):
        raise _invalid([FieldViolation(f"{name}.id", "is missing; give the resource an id")])
    message = read_message(section.message, values, name)
    expand_fields(message, project, name)
    if section.line is not None:
        setattr(message, "name", expand(section.line, project, values["name"], f"{name}.id"))  # noqa: B010 - as above.
    return message


def _unknown_keys(values: dict[str, Any], descriptor: Any, path: str) -> Iterator[FieldViolation]:
    """Keys that the contract does not have, at any depth, each with those that it has."""
    fields = {key: field for field in descriptor.fields for key in (field.name, field.json_name)}
    for key, value in values.items():
        if key not in fields:
            known = ", ".join(field.name for field in descriptor.fields if not is_output_only(field))
            yield FieldViolation(f"{path}.{key}", f"is not known; there are {known}")
            continue
        inner = fields[key].message_type
        if inner is None or inner.GetOptions().map_entry:
            continue
        for element in cast("list[Any]", value if isinstance(value, list) else [value]):
            if isinstance(element, dict):
                yield from _unknown_keys(cast("dict[str, Any]", element), inner, f"{path}.{key}")


def _invalid(violations: list[FieldViolation]) -> InvalidInput:
    lines = "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in violations)
    message = f"the configuration is not valid: {lines}"
    return InvalidInput(message, reason="CONFIGURATION_INVALID", violations=violations)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would keep the last without a word."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {key for key in keys if isinstance(key, Hashable) and keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(
            None, None, f"{', '.join(map(str, twice))} is given twice", node.start_mark
        )
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
