"""Ingestion recipes: how records become rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

DEFAULT_PROMPT_TEMPLATE = "{input}"
DEFAULT_MAX_FIELD_CHARACTERS = 20_000
RULES = "mainspring.rows.v1"
"""Name of the rules by which records become rows; part of every recipe's digest, so a change of rules shows."""


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


@dataclass(frozen=True)
class SplitShares:
    """How many of 100 groups go to each split; they add up to 100."""

    train_percent: int = 80
    validation_percent: int = 10
    test_percent: int = 10


@dataclass(frozen=True)
class IngestionRecipe:
    """How the records of sources become the rows of a dataset's version."""

    name: str
    dataset: str
    columns: ColumnMapping
    prompt_template: str = DEFAULT_PROMPT_TEMPLATE
    system_prompt: str = ""
    split: SplitShares = SplitShares()
    max_field_characters: int = DEFAULT_MAX_FIELD_CHARACTERS

    def applied_sha256(self) -> str:
        """Digest of everything in the recipe that decides about rows; its names do not."""
        rules = {key: value for key, value in asdict(self).items() if key not in {"name", "dataset"}}
        return hashlib.sha256(json.dumps({"rules": RULES, **rules}, sort_keys=True).encode()).hexdigest()
