"""Which event types there are, and which message each one carries; read from the contracts."""

from __future__ import annotations

from functools import cache

from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from mainspring.events.v1 import (
    data_events_pb2,
    embedding_events_pb2,
    evaluation_events_pb2,
    event_type_pb2,
    feedback_events_pb2,
    inference_events_pb2,
    registry_events_pb2,
    training_events_pb2,
)

PREFIX = "mainspring."
_FILES: tuple[FileDescriptor, ...] = (
    data_events_pb2.DESCRIPTOR,
    embedding_events_pb2.DESCRIPTOR,
    evaluation_events_pb2.DESCRIPTOR,
    feedback_events_pb2.DESCRIPTOR,
    inference_events_pb2.DESCRIPTOR,
    registry_events_pb2.DESCRIPTOR,
    training_events_pb2.DESCRIPTOR,
)


@cache
def event_messages() -> dict[str, type[Message]]:
    """Message class by event type."""
    return {
        descriptor.GetOptions().Extensions[event_type_pb2.event_type]: message_factory.GetMessageClass(descriptor)
        for file in _FILES
        for descriptor in file.message_types_by_name.values()
        if descriptor.GetOptions().HasExtension(event_type_pb2.event_type)
    }


def type_of(message: Message | type[Message]) -> str:
    """The event type of a message.

    Raises:
        ValueError: The message is not declared as an event.
    """
    event_type = message.DESCRIPTOR.GetOptions().Extensions[event_type_pb2.event_type]
    if not event_type:
        raise ValueError(f"{message.DESCRIPTOR.full_name} is not an event: it declares no event_type")
    return event_type


def resource_of(message: Message) -> str:
    """The resource that an event is about: its first field."""
    return getattr(message, message.DESCRIPTOR.fields[0].name)


def subject_of(project: str, event_type: str) -> str:
    """The NATS subject on which an event travels: `mainspring.events.{project}.{type without prefix}`."""
    return f"mainspring.events.{project}.{event_type.removeprefix(PREFIX)}"


def filter_of(event_type: str) -> str:
    """The subject filter for an event type, or for a pattern that ends in `>`, in all projects."""
    return f"mainspring.events.*.{event_type.removeprefix(PREFIX)}"
