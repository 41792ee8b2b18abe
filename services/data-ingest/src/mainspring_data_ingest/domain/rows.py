"""Rows in canonical chat form: how a record becomes one, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.steps import TextPart

ROLES = ("system", "user", "assistant")
_quoted = json.JSONEncoder(ensure_ascii=False).encode


class Message(NamedTuple):
    """One turn of a conversation; the role in lower case."""

    role: str
    content: str


class Origin(NamedTuple):
    """Where a record stands: position of its source, and its line there."""

    source_index: int
    line: int


@dataclass(frozen=True, slots=True)
class Draft:
    """The texts of a record, before the recipe's template and system prompt: what steps look at and change.

    Attributes:
        messages: The conversation; the last message is the assistant's.
        group: Value of the group column; empty without one.
    """

    messages: tuple[Message, ...]
    group: str = ""

    def text(self, part: TextPart) -> str:
        """The texts of a part, one a line."""
        if part is TextPart.ALL:
            return "\n".join([message.content for message in self.messages])
        return "\n".join([m.content for m in self.messages if _is_answer(m) is (part is TextPart.ANSWER)])

    def changed(self, part: TextPart, change: Callable[[str], str]) -> Draft:
        """The draft with each message of a part changed; itself when none is another one then."""
        messages = tuple(
            [
                Message(message.role, change(message.content))
                if part is TextPart.ALL or _is_answer(message) is (part is TextPart.ANSWER)
                else message
                for message in self.messages
            ]
        )
        return self if messages == self.messages else Draft(messages, self.group)


@dataclass(frozen=True, slots=True)
class Example:
    """What a record says.

    Attributes:
        messages: The conversation; the last message is the assistant's.
        group: Examples of one group belong to the same split.
    """

    messages: tuple[Message, ...]
    group: str


@dataclass(frozen=True, slots=True)
class Row:
    """An example with its identity and its origin.

    Attributes:
        example: What it says.
        row_id: SHA-256 of the canonical JSON of its messages, hexadecimal.
        canonical: The row as canonical JSON (sorted keys, no spaces, UTF-8), which digests are made over.
        prompt_digest: First 16 bytes of the SHA-256 of the messages before the last.
        source_index: Position of its source.
        line: Line of the source on which its record begins.
    """

    example: Example
    row_id: str
    canonical: str
    prompt_digest: bytes
    source_index: int
    line: int

    @classmethod
    def of(cls, example: Example, source_index: int, line: int) -> Row:
        """Identifies an example."""
        parts = [f'{{"content":{_quoted(m.content)},"role":"{m.role}"}}' for m in example.messages]
        messages = f"[{','.join(parts)}]"
        row_id = hashlib.sha256(messages.encode()).hexdigest()
        prompt = f"[{','.join(parts[:-1])}]"
        canonical = (
            f'{{"group":{_quoted(example.group)},"line":{line},"messages":{messages},'
            f'"row_id":"{row_id}","source_index":{source_index}}}'
        )
        prompt_digest = hashlib.sha256(prompt.encode()).digest()[:16]
        return cls(example, row_id, canonical, prompt_digest, source_index, line)


class ExampleMaker:
    """Makes examples of the records of one source."""

    def __init__(self, recipe: IngestionRecipe, columns: ColumnMapping) -> None:
        """Takes the recipe, and the columns of the source (the recipe's, unless the source has its own)."""
        self._columns, self._mapped = columns, columns.mapped
        self._input, self._target = f"column {columns.input_column!r}", f"column {columns.target_column!r}"
        self._template, self._max_characters = recipe.prompt_template, recipe.max_field_characters
        self._system = (Message("system", recipe.system_prompt),) if recipe.system_prompt else ()

    def draft(self, values: Mapping[str, Any]) -> Draft:
        """The texts that a record holds.

        Raises:
            RowRefused: It holds none, for the reason given.
        """
        columns = self._columns
        missing = [column for column in self._mapped if column not in values]
        if missing:
            raise RowRefused(RefusalReason.MISSING_COLUMN, f"has no column {_names(missing)}; it has {_names(values)}")
        if columns.messages_column:
            messages = self._messages(values[columns.messages_column])
        else:
            source = self._text(values[columns.input_column], self._input)
            target = self._text(values[columns.target_column], self._target)
            messages = (Message("user", source), Message("assistant", target))
        return Draft(messages, self._group(values[columns.group_column]) if columns.group_column else "")

    def render(self, draft: Draft) -> Example:
        """The example that texts make."""
        if self._columns.messages_column:
            first_user = next(m.content for m in draft.messages if m.role == "user")
            # A conversation that brings its own instructions keeps them.
            own = draft.messages[0].role == "system"
            messages = draft.messages if own else (*self._system, *draft.messages)
        else:
            first_user = self._template.replace("{input}", draft.messages[0].content)
            messages = (*self._system, Message("user", first_user), draft.messages[1])
        return Example(messages, draft.group or first_user)

    def check(self, draft: Draft) -> None:
        """Checks texts that steps have changed as those of records are.

        Raises:
            RowRefused: One is empty now, or too long.
        """
        for number, message in enumerate(draft.messages, 1):
            self._text(message.content, f"after the recipe's steps, the {message.role}'s message ({number})")

    def make(self, values: Mapping[str, Any]) -> Example:
        """The example that a record holds, without any steps.

        Raises:
            RowRefused: It holds none, for the reason given.
        """
        return self.render(self.draft(values))

    def _messages(self, value: Any) -> tuple[Message, ...]:
        where = f"column {self._columns.messages_column!r}"
        if isinstance(value, str):
            value = _parsed(value, where)  # In a CSV file a list can only be written as JSON text.
        if not isinstance(value, list):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is {_kind(value)}, not a list of messages")
        if not value:
            raise RowRefused(RefusalReason.EMPTY, f"{where} is an empty list")
        messages = tuple(self._message(m, f"message {number} of {where}") for number, m in enumerate(value, 1))
        if messages[-1].role != "assistant":
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} does not end with a message of the assistant")
        if all(message.role != "user" for message in messages):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} has no message of a user")
        return messages

    def _message(self, value: Any, where: str) -> Message:
        if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is not an object with role and content")
        role = value["role"]
        if not isinstance(role, str) or role.lower() not in ROLES:
            raise RowRefused(RefusalReason.NOT_TEXT, f"the role of {where} is not {', '.join(ROLES[:-1])} or assistant")
        return Message(role.lower(), self._text(value["content"], f"the content of {where}"))

    def _group(self, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # Numbers are usual as keys; everything else must be text as elsewhere.
        return self._text(value, f"column {self._columns.group_column!r}")

    def _text(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} is {_kind(value)}, not text")
        if len(value) > self._max_characters:
            detail = f"{where} has {len(value)} characters; the recipe allows {self._max_characters}"
            raise RowRefused(RefusalReason.TOO_LONG, detail)
        if not any(map(_visible, value)):
            raise RowRefused(RefusalReason.EMPTY, f"{where} is empty")
        if "\0" in value or not _encodable(value):
            raise RowRefused(RefusalReason.NOT_TEXT, f"{where} holds NUL characters or halves of surrogate pairs")
        return value


def _is_answer(message: Message) -> bool:
    return message.role == "assistant"


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


def _kind(value: Any) -> str:
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


def _names(columns: Sequence[str] | Mapping[str, Any]) -> str:
    shown = [repr(column[:60]) for column in list(columns)[:10]]
    return ", ".join(shown) + (", ..." if len(columns) > 10 else "") if shown else "none"
