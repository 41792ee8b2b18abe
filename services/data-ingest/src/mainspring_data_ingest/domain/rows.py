"""Rows in canonical chat form: how a record becomes one, and what identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from json.encoder import encode_basestring as _quoted
from typing import Any

from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.conversations import ROLES, Conversations, Message
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import RefusalReason, RowRefused
from mainspring_data_ingest.domain.steps import TextPart
from mainspring_data_ingest.domain.words import words_of

__all__ = ["ROLES", "Draft", "Example", "ExampleMaker", "Message", "Row", "without_recipe"]
_YES = frozenset({"true", "yes", "1", "1.0"})


@dataclass(frozen=True, slots=True)
class Draft:
    """The texts of a record, before the recipe's template and system prompt: what steps look at and change.

    Attributes:
        messages: The conversation; the last message is the assistant's. One message alone is text without a prompt.
        group: Value of the group column; empty without one.
        rejected: A worse answer to the same prompt, when there is one. Steps change it as they change answers; filters
            do not look at it, since it need not be good.
        desirable: The thumb on the answer, when there is one.
        synthetic: Whether a model made it.
    """

    messages: tuple[Message, ...]
    group: str = ""
    rejected: str | None = None
    desirable: bool | None = None
    synthetic: bool = False
    # Several steps ask for the same; by whether it is the answers', or None for all messages.
    _texts: dict[bool | None, str] = field(
        default_factory=dict[bool | None, str], init=False, repr=False, compare=False
    )
    _words: dict[bool | None, Sequence[str]] = field(
        default_factory=dict[bool | None, Sequence[str]], init=False, repr=False, compare=False
    )

    def text(self, part: TextPart) -> str:
        """The texts of a part, one a line."""
        wanted = _wanted(part)
        text = self._texts.get(wanted)
        if text is None:
            text = "\n".join([m.content for m in self.messages if wanted is None or _is_answer(m) is wanted])
            self._texts[wanted] = text
        return text

    def words(self, part: TextPart) -> Sequence[str]:
        """The words of a part's texts, folded, as `words_of` finds them."""
        wanted = _wanted(part)
        words = self._words.get(wanted)
        if words is None:
            words = self._words[wanted] = words_of(self.text(part))
        return words

    def changed(self, part: TextPart, change: Callable[[str], str]) -> Draft:
        """The draft with each message of a part changed; itself when none is another one then."""
        wanted, rejected = _wanted(part), self.rejected
        before = [m.content for m in self.messages]
        after = [change(m.content) if wanted is None or _is_answer(m) is wanted else m.content for m in self.messages]
        if rejected is not None and part is not TextPart.PROMPT:
            rejected = change(rejected)
        if after == before and rejected == self.rejected:
            return self
        messages = [Message(m.role, content) for m, content in zip(self.messages, after, strict=True)]
        return replace(self, messages=tuple(messages), rejected=rejected)


@dataclass(frozen=True, slots=True)
class Example:
    """What a record says.

    Attributes:
        messages: The conversation; the last message is the assistant's.
        group: Examples of one group belong to the same split.
        rejected: A worse answer to the same prompt, when there is one.
        desirable: The thumb on the answer, when there is one.
        synthetic: True when a model made it, else None.
    """

    messages: tuple[Message, ...]
    group: str
    rejected: str | None = None
    desirable: bool | None = None
    synthetic: bool | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """An example with its identity and its origin.

    Attributes:
        example: What it says.
        row_id: SHA-256, hexadecimal, of the canonical JSON of its messages; of an example with a rejected answer or a
            thumb, of the object of these and `messages`. Who made it is no part of it.
        canonical: The row as canonical JSON (sorted keys, no spaces, UTF-8), which digests are made over.
        digest: First 16 bytes of the SHA-256 that `row_id` is.
        prompt_digest: First 16 bytes of the SHA-256 of the messages before the last; of all where there is only one.
        group_digest: First 16 bytes of the SHA-256 of its group.
        source_index: Position of its source.
        line: Line of the source on which its record begins.
    """

    example: Example
    row_id: str
    canonical: str
    digest: bytes
    prompt_digest: bytes
    group_digest: bytes
    source_index: int
    line: int

    @classmethod
    def of(cls, example: Example, source_index: int, line: int) -> Row:
        """Identifies an example."""
        parts = [f'{{"content":{_quoted(m.content)},"role":"{m.role}"}}' for m in example.messages]
        messages = f"[{','.join(parts)}]"
        # What is not set stands nowhere, so that rows without it are identified as they were before it existed.
        thumb = "" if example.desirable is None else f'"desirable":{"true" if example.desirable else "false"},'
        worse = "" if example.rejected is None else f',"rejected":{_quoted(example.rejected)}'
        identity = f'{{{thumb}"messages":{messages}{worse}}}' if thumb or worse else messages
        digest = hashlib.sha256(identity.encode()).digest()
        row_id = digest.hex()
        mark = ',"synthetic":true' if example.synthetic else ""
        canonical = (
            f'{{{thumb}"group":{_quoted(example.group)},"line":{line},"messages":{messages}{worse},'
            f'"row_id":"{row_id}","source_index":{source_index}{mark}}}'
        )
        prompt = f"[{','.join(parts[:-1] or parts)}]"
        prompt_digest = hashlib.sha256(prompt.encode()).digest()[:16]
        group_digest = hashlib.sha256(example.group.encode()).digest()[:16]
        return cls(example, row_id, canonical, digest[:16], prompt_digest, group_digest, source_index, line)


class ExampleMaker:
    """Makes examples of the records of one source."""

    def __init__(self, recipe: IngestionRecipe, columns: ColumnMapping, *, synthetic: bool = False) -> None:
        """Takes the recipe, the columns of the source (the recipe's, unless the source has its own), and whether a
        model made all of its records.
        """
        self._columns, self._required = columns, columns.required
        self._synthetic, self._mark = synthetic, columns.mark
        self._input, self._target = f"column {columns.input_column!r}", f"column {columns.target_column!r}"
        self._read = Conversations(recipe.max_field_characters)
        self._template = recipe.prompt_template if columns.input_column else "{input}"
        self._system = (Message("system", recipe.system_prompt),) if recipe.system_prompt else ()

    def draft(self, values: Mapping[str, Any]) -> Draft:
        """The texts that a record holds.

        Raises:
            RowRefused: It holds none, for the reason given.
        """
        columns, read = self._columns, self._read
        missing = [column for column in self._required if column not in values]
        if missing:
            raise RowRefused(RefusalReason.MISSING_COLUMN, f"has no column {_names(missing)}; it has {_names(values)}")
        messages = self._messages(values)
        group = self._group(values[columns.group_column]) if columns.group_column else ""
        if not (columns.rejected_column or columns.desirable_column):
            return Draft(messages, group, synthetic=self._is_synthetic(values))
        rejected, thumb = columns.rejected_column, columns.desirable_column
        return Draft(
            messages,
            group,
            read.rejected(values.get(rejected), f"column {rejected!r}", messages) if rejected else None,
            read.thumb(values.get(thumb), f"column {thumb!r}") if thumb else None,
            self._is_synthetic(values),
        )

    def render(self, draft: Draft) -> Example:
        """The example that texts make. The template is for prompts of one text, so a longer talk goes without it."""
        messages = draft.messages
        if len(messages) == 1:
            return _example(messages, messages[0].content, draft)
        if self._template != "{input}" and [m.role for m in messages[:-1] if m.role != "system"] == ["user"]:
            messages = tuple([self._filled(message) for message in messages])
        first_user = next(m.content for m in messages if m.role == "user")
        # A conversation that brings its own instructions keeps them.
        messages = messages if messages[0].role == "system" else (*self._system, *messages)
        return _example(messages, first_user, draft)

    def check(self, draft: Draft) -> None:
        """Checks texts that steps have changed as those of records are.

        Raises:
            RowRefused: One is empty now, or too long.
        """
        for number, message in enumerate(draft.messages, 1):
            self._read.text(message.content, f"after the recipe's steps, the {message.role}'s message ({number})")
        if draft.rejected is not None:
            self._read.text(draft.rejected, "after the recipe's steps, the rejected answer")

    def make(self, values: Mapping[str, Any]) -> Example:
        """The example that a record holds, without any steps.

        Raises:
            RowRefused: It holds none, for the reason given.
        """
        return self.render(self.draft(values))

    def _messages(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        columns, read = self._columns, self._read
        if columns.messages_column:
            return read.whole(values[columns.messages_column], f"column {columns.messages_column!r}")
        if columns.text_column:
            return (Message("assistant", read.text(values[columns.text_column], f"column {columns.text_column!r}")),)
        answer = read.answer(values[columns.target_column], self._target)
        if any(message.role == "user" for message in answer):
            return answer  # The answer comes with its whole conversation.
        messages = (*self._prompt(values), *answer)
        system = values.get(columns.system_column) if columns.system_column else None
        if system and messages[0].role != "system":
            return (Message("system", read.text(system, f"column {columns.system_column!r}")), *messages)
        return messages

    def _prompt(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        prompt = self._read.prompt(values[self._columns.input_column], self._input)
        context = values.get(self._columns.context_column) if self._columns.context_column else None
        if context is None or context == "":
            return prompt
        text = self._read.text(context, f"column {self._columns.context_column!r}")
        return (*prompt[:-1], Message(prompt[-1].role, f"{prompt[-1].content}\n\n{text}"))

    def _is_synthetic(self, values: Mapping[str, Any]) -> bool:
        if self._synthetic:
            return True
        said = values.get(self._mark) if self._mark else None
        return said is True or (said is not None and str(said).strip().lower() in _YES)

    def _filled(self, message: Message) -> Message:
        if message.role != "user":
            return message
        return Message(message.role, self._template.replace("{input}", message.content))

    def _group(self, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # Numbers are usual as keys; everything else must be text as elsewhere.
        return self._read.text(value, f"column {self._columns.group_column!r}")


def without_recipe(recipe: IngestionRecipe, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages of a row without what `ExampleMaker.render` put there: the system prompt, and the template's
    text around a prompt of one message.
    """
    if len(messages) > 1 and recipe.system_prompt and messages[0] == Message("system", recipe.system_prompt):
        messages = messages[1:]
    if [message.role for message in messages[:-1] if message.role != "system"] != ["user"]:
        return messages
    return tuple(
        [Message(m.role, _input_of(recipe.prompt_template, m.content)) if m.role == "user" else m for m in messages]
    )


def _input_of(template: str, text: str) -> str:
    """What the template was filled with to give the text; the text itself when it was not."""
    fixed = template.split("{input}")
    size, over = divmod(len(text) - sum(map(len, fixed)), len(fixed) - 1)
    found = text[len(fixed[0]) : len(fixed[0]) + max(0, size)]
    return found if not over and template.replace("{input}", found) == text else text


def _example(messages: tuple[Message, ...], usual_group: str, draft: Draft) -> Example:
    group = draft.group or usual_group
    return Example(messages, group, draft.rejected, draft.desirable, draft.synthetic or None)


def _wanted(part: TextPart) -> bool | None:
    """Whether the messages of a part are answers; None where it is both."""
    return None if part is TextPart.ALL else part is TextPart.ANSWER


def _is_answer(message: Message) -> bool:
    return message.role == "assistant"


def _names(columns: Sequence[str] | Mapping[str, Any]) -> str:
    shown = [repr(column[:60]) for column in list(columns)[:10]]
    return ", ".join(shown) + (", ..." if len(columns) > 10 else "") if shown else "none"
