"""Where in a record the text is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ColumnMapping:
    """Where the text is: either `messages_column`, or `input_column` with `target_column`; empty where unused."""

    input_column: str = ""
    target_column: str = ""
    messages_column: str = ""
    group_column: str = ""

    @property
    def mapped(self) -> tuple[str, ...]:
        """The columns that a record must have."""
        columns = (self.messages_column, self.input_column, self.target_column, self.group_column)
        return tuple(column for column in columns if column)
