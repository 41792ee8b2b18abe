"""Between prompts and `mainspring.registry.v1`; pure functions."""

from __future__ import annotations

from mainspring.registry.v1 import prompt_pb2
from mainspring_registry.domain.prompts import Prompt, PromptText, PromptVersion
from mainspring_svckit.mapping import messages_from_proto, messages_to_proto, time_to_proto


def text_from_proto(message: prompt_pb2.PromptVersion) -> PromptText:
    """Reads the messages."""
    return PromptText(messages_from_proto(message.messages))


def version_to_proto(version: PromptVersion) -> prompt_pb2.PromptVersion:
    """Prints a version."""
    return prompt_pb2.PromptVersion(
        name=version.name,
        messages=messages_to_proto(version.text.messages),
        variables=version.text.variables,
        comment=version.comment,
        author=version.author,
        sha256=version.text.sha256,
        create_time=time_to_proto(version.create_time),
    )


def prompt_to_proto(prompt: Prompt) -> prompt_pb2.Prompt:
    """Prints a prompt."""
    return prompt_pb2.Prompt(
        name=prompt.name,
        latest_version=prompt.newest,
        labels=prompt.labels,
        create_time=time_to_proto(prompt.create_time),
    )
