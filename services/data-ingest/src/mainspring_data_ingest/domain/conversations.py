"""Values of records as messages: the ways in which chats are usually written, and the checks that all texts pass."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mainspring_data_ingest.domain.records import RefusalReason, RowRefused

ROLES = ("system", "user", "assistant")
_ROLE_OF = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
"""Names of roles: OpenAI's, ShareGPT's, and those of other collections."""
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
_THUMBS = {
    **dict.fromkeys(("true", "yes", "1", "up", "good", "desirable", "\N{THUMBS UP SIGN}"), True),
    **dict.fromkeys(("false", "no", "0", "-1", "down", "bad", "undesirable", "\N{THUMBS DOWN SIGN}"), False),
}


class Message(NamedTuple):
    """One turn of a conversation; the role in lower case."""

    role: str
    content: str


class Conversations:
    """Reads values of records; what cannot be used is refused with its place."""

    def __init__(self, max_characters: int) -> None:
        """Takes the length that no single text may exceed."""
        self._max_characters = max_characters

    def whole(self, value: Any, where: str) -> tuple[Message, ...]:
        """A conversation that ends with the assistant's answer. A single message is text without a prompt.

        Raises:
            RowRefused: It is none.
        """
        messages = self.messages(value, where)
        if messages[-1].role != "assistant":
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} does not end with a message of the assistant")
        if len(messages) > 1 and all(message.role != "user" for message in messages):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} has no message of a user")
        return messages

    def prompt(self, value: Any, where: str) -> tuple[Message, ...]:
        """What comes before an answer: text, a list of messages, or an object with one.

        Raises:
            RowRefused: It is none of these, or has no message of a user.
        """
        if isinstance(value, dict) and "messages" in value:
            value = value["messages"]
        if not isinstance(value, list):
            return (Message("user", self.text(value, where)),)
        messages = self.messages(value, where)
        if all(message.role != "user" for message in messages):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} has no message of a user")
        return messages

    def answer(self, value: Any, where: str) -> tuple[Message, ...]:
        """An answer: text, a message, or a list of messages that ends with it.

        Raises:
            RowRefused: It is none of these.
        """
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            return (Message("assistant", self.text(value, where)),)
        messages = self.messages(value, where)
        if messages[-1].role != "assistant":
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} does not end with a message of the assistant")
        return messages

    def rejected(self, value: Any, where: str, chosen: Sequence[Message]) -> str | None:
        """The worse answer to a conversation's last prompt; None where there is none.

        Raises:
            RowRefused: It is no answer, or one to another prompt, or the better one itself.
        """
        if value is None or value == "" or value == []:
            return None
        messages = self.messages(value, where) if _is_transcript(value) else self.answer(value, where)
        prompt, answer = messages[:-1], messages[-1]
        if prompt and prompt not in (tuple(chosen[:-1]), _without_system(chosen[:-1])):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} answers another prompt")
        if answer.role != "assistant":
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} does not end with a message of the assistant")
        if answer.content == chosen[-1].content:
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is the better answer once more")
        return answer.content

    def messages(self, value: Any, where: str) -> tuple[Message, ...]:
        """A list of messages, also as JSON text or as a transcript of `Human:` and `Assistant:`.

        Raises:
            RowRefused: It is none.
        """
        if _is_transcript(value):
            return self._transcript(value, where)
        if isinstance(value, str):
            value = _parsed(value, where)  # In a CSV file a list can only be written as JSON text.
        if isinstance(value, dict) and "messages" in value:
            value = value["messages"]
        if not isinstance(value, list):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is {kind_of(value)}, not a list of messages")
        if not value:
            raise RowRefused(RefusalReason.EMPTY, f"{where} is an empty list")
        return tuple([self._message(m, f"message {number} of {where}") for number, m in enumerate(value, 1)])

    def thumb(self, value: Any, where: str) -> bool | None:
        """A thumb up or down; None where there is none.

        Raises:
            RowRefused: It is neither.
        """
        if value is None or value == "":
            return None
        if isinstance(value, bool):
            return value
        found = _THUMBS.get(str(value).strip().lower()) if isinstance(value, str | int) else None
        if found is None:
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is neither true nor false")
        return found

    def text(self, value: Any, where: str) -> str:
        """A text that is one.

        Raises:
            RowRefused: It is none, or empty, or too long.
        """
        if not isinstance(value, str):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is {kind_of(value)}, not text")
        if len(value) > self._max_characters:
            detail = f"{where} has {len(value)} characters; the recipe allows {self._max_characters}"
            raise RowRefused(RefusalReason.TOO_LONG, detail)
        if not any(map(_visible, value)):
            raise RowRefused(RefusalReason.EMPTY, f"{where} is empty")
        if "\0" in value or not _encodable(value):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} holds NUL characters or halves of surrogate pairs")
        return value

    def _message(self, value: Any, where: str) -> Message:
        """A message in OpenAI's form (`role`, `content`) or in ShareGPT's (`from`, `value`)."""
        if not isinstance(value, dict):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is not an object with role and content")
        if {"role", "content"} <= value.keys():
            role, content = value["role"], value["content"]
        elif {"from", "value"} <= value.keys():
            role, content = value["from"], value["value"]
        else:
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is not an object with role and content")
        known = _ROLE_OF.get(role.lower()) if isinstance(role, str) else None
        if known is None:
            raise RowRefused(RefusalReason.NOT_TEXT, f"the role of {where} is not {', '.join(ROLES[:-1])} or assistant")
        if isinstance(content, list):
            content = _joined(content, where)
        return Message(known, self.text(content, f"the content of {where}"))

    def _transcript(self, value: str, where: str) -> tuple[Message, ...]:
        _, *turns = _TURN.split(value)
        return tuple(
            [
                Message(_ROLE_OF[speaker.lower()], self.text(content.strip(), f"message {number} of {where}"))
                for number, (speaker, content) in enumerate(zip(turns[::2], turns[1::2], strict=True), 1)
            ]
        )


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("\n\nHuman:", "Human:")) and "\n\nAssistant:" in value


def _without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(message for message in messages if message.role != "system")


def _joined(parts: Sequence[Any], where: str) -> str:
    """Content in parts, all of which must be text."""
    texts: list[str] = []
    for part in parts:
        text: Any = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] - JSON.
        if not isinstance(text, str):
            raise RowRefused(RefusalReason.NOT_TEXT, f"the content of {where} has parts that are not text")
        texts.append(text)
    return "\n".join(texts)


def _visible(c: str) -> bool:
    """Whether a character counts against emptiness: no white space, no control, nothing of zero width."""
    return "!" <= c <= "~" or (not c.isspace() and unicodedata.category(c) not in {"Cc", "Cf"})


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is neither a list of messages nor the JSON of one") from err
