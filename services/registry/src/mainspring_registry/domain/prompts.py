"""Prompts as versioned artifacts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mainspring_registry.domain.digests import digest_of
from mainspring_registry.domain.lines import Line
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import PromptVersionName
from mainspring_svckit.values import Message

_PLACE = re.compile(r"\{\{\s*([a-z_][a-z0-9_]{0,62})\s*\}\}")


@dataclass(frozen=True)
class PromptText:
    """What stands before the conversation; its digest identifies it."""

    messages: tuple[Message, ...]

    @property
    def sha256(self) -> str:
        """Digest of the messages."""
        return digest_of(self)

    @property
    def variables(self) -> Sequence[str]:
        """Variables that the messages have places for, in order of their first place."""
        found = (name for message in self.messages for name in _PLACE.findall(message.content))
        return list(dict.fromkeys(found))

    def filled(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        """The messages with a value in every place.

        Raises:
            InvalidInput: UNIT_NOT_SERVABLE, a variable has no value, or a value no place.
        """
        if odd := sorted(set(self.variables) ^ set(values)):
            missing = odd[0] in self.variables
            words = f"the variable {odd[0]!r} has no value" if missing else f"the prompt has no variable {odd[0]!r}"
            message = f"{words}; prompt_variables gives one value for each of the prompt's variables"
            raise InvalidInput(message, reason="UNIT_NOT_SERVABLE")
        return tuple(
            Message(message.role, _PLACE.sub(lambda place: values[place[1]], message.content))
            for message in self.messages
        )


@dataclass(frozen=True)
class Prompt(Line):
    """A named line of prompts."""


@dataclass(frozen=True)
class PromptVersion:
    """An immutable prompt."""

    name: str
    prompt: str
    text: PromptText
    comment: str
    author: str
    create_time: datetime

    @property
    def content(self) -> PromptText:
        """See `LineVersion`."""
        return self.text

    @property
    def number(self) -> int:
        """Its place in the line, from 1."""
        return int(PromptVersionName.parse(self.name).version)
