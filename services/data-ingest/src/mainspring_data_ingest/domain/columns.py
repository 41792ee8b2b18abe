"""Where in a record the text is."""

from __future__ import annotations

from dataclasses import asdict, dataclass

SYNTHETIC_COLUMN = "synthetic"
"""The column by which records, rows of ours among them, say that a model made them."""


@dataclass(frozen=True)
class ColumnMapping:
    """Where the text is: `messages_column`, or `input_column` with `target_column`, or `text_column`; else empty.

    Attributes:
        input_column: The prompt: text, or a list of messages.
        target_column: The answer to it: text, or a list of messages that ends with it.
        messages_column: A whole conversation.
        group_column: What keeps rows in one split.
        text_column: Text without a prompt, of a plain corpus.
        context_column: Text that follows the input's after a blank line.
        system_column: Text of a system message of the record's own.
        rejected_column: A worse answer to the same prompt.
        desirable_column: A thumb on the answer.
    """

    input_column: str = ""
    target_column: str = ""
    messages_column: str = ""
    group_column: str = ""
    text_column: str = ""
    context_column: str = ""
    system_column: str = ""
    rejected_column: str = ""
    desirable_column: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that a record must have."""
        columns = (self.messages_column, self.input_column, self.target_column, self.text_column, self.group_column)
        return tuple(column for column in columns if column)

    @property
    def optional(self) -> tuple[str, ...]:
        """The columns that a record may lack, or leave empty."""
        columns = (self.context_column, self.system_column, self.rejected_column, self.desirable_column, self.mark)
        return tuple(column for column in columns if column)

    @property
    def mark(self) -> str:
        """The column that says whether a model made a record: `synthetic`, unless that is mapped to something else.
        Nobody has to name it, so that the mark is not lost on the way.
        """
        mapped = {column for column in asdict(self).values() if column}
        return SYNTHETIC_COLUMN if mapped and SYNTHETIC_COLUMN not in mapped else ""

    def as_json(self) -> dict[str, str]:
        """As plain values. What came after the first four stands there only when it is set, so that digests stay."""
        values: dict[str, str] = asdict(self)
        first = ("input_column", "target_column", "messages_column", "group_column")
        return {key: value for key, value in values.items() if value or key in first}


MESSAGES = ColumnMapping(messages_column="messages", rejected_column="rejected", desirable_column="desirable")
"""The columns of our own rows: what versions hold, and what feedback makes."""
