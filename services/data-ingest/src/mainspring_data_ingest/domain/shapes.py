"""The usual shapes of records, told by their columns and values, and where the text is in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from mainspring_data_ingest.domain.columns import ColumnMapping

_MOST = 0.9
"""Share of the records that must have a column for it to count."""
_PROMPTS = ("prompt", "instruction", "question", "query", "input", "source")
_ANSWERS = ("completion", "response", "answer", "output", "target", "reply", "summary")
_THUMBS = ("desirable", "label", "thumb", "thumbs", "thumbs_up", "rating")
_TEXTS = ("text", "content", "document", "body")


class Shape(StrEnum):
    """A usual shape of records."""

    CHAT = "CHAT"
    SHAREGPT = "SHAREGPT"
    OPENAI_PREFERENCES = "OPENAI_PREFERENCES"
    CHOSEN_REJECTED = "CHOSEN_REJECTED"
    ALPACA = "ALPACA"
    THUMBS = "THUMBS"
    PROMPT_COMPLETION = "PROMPT_COMPLETION"
    CORPUS = "CORPUS"
    CODE_SUMMARY = "CODE_SUMMARY"


class _Sample:
    """Columns of some records, by their names in lower case."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._records = records
        counts = Counter(name for record in records for name in record)
        self._names = {name.lower(): name for name, count in counts.items() if count >= _MOST * len(records)}
        self._some = {name.lower(): name for name in counts}

    def has(self, *names: str) -> str:
        """The first of the names that is a column; empty when none is."""
        return next((self._names[name] for name in names if name in self._names), "")

    def may_have(self, *names: str) -> str:
        """The first of the names that some record has; empty when none has."""
        return next((self._some[name] for name in names if name in self._some), "")

    def mostly(self, column: str, is_one: Callable[[Any], bool]) -> bool:
        """Whether most values of a column are of a kind; what is null does not count."""
        values = [record[column] for record in self._records if record.get(column) not in (None, "")]
        return bool(values) and sum(map(is_one, values)) >= _MOST * len(values)


def recognise(records: Sequence[Mapping[str, Any]]) -> tuple[Shape, ColumnMapping] | None:
    """The shape of records and where the text is in them; None when it is no usual one.

    Args:
        records: The first records of a source.
    """
    if not records:
        return None
    sample = _Sample(records)
    for rule in (_code, _preferences, _pairs, _chats, _alpaca, _prompts, _corpus):
        found = rule(sample)
        if found is not None:
            return found
    return None


def _code(sample: _Sample) -> tuple[Shape, ColumnMapping] | None:
    """What our own reader makes of Python code."""
    names = ("file", "name", "text", "summary")
    if all(sample.has(name) for name in names):
        return Shape.CODE_SUMMARY, ColumnMapping(input_column="text", target_column="summary", group_column="file")
    return None


def _preferences(sample: _Sample) -> tuple[Shape, ColumnMapping] | None:
    source, better, worse = (sample.has(n) for n in ("input", "preferred_output", "non_preferred_output"))
    if source and better and worse:
        columns = ColumnMapping(input_column=source, target_column=better, rejected_column=worse)
        return Shape.OPENAI_PREFERENCES, columns
    return None


def _pairs(sample: _Sample) -> tuple[Shape, ColumnMapping] | None:
    chosen, rejected = sample.has("chosen"), sample.has("rejected")
    if not (chosen and rejected):
        return None
    prompt = sample.has(*_PROMPTS)
    if prompt:
        columns = ColumnMapping(
            input_column=prompt,
            target_column=chosen,
            rejected_column=rejected,
            system_column=sample.may_have("system"),
        )
    else:
        columns = ColumnMapping(messages_column=chosen, rejected_column=rejected)
    return Shape.CHOSEN_REJECTED, columns


def _chats(sample: _Sample) -> tuple[Shape, ColumnMapping] | None:
    for names, shape in ((("messages",), Shape.CHAT), (("conversations", "conversation"), Shape.SHAREGPT)):
        column = sample.has(*names)
        if column and sample.mostly(column, lambda value: isinstance(value, list) or _is_json_list(value)):
            columns = ColumnMapping(
                messages_column=column,
                group_column=sample.has("group"),
                rejected_column=sample.may_have("rejected"),
                desirable_column=sample.may_have("desirable"),
            )
            return shape, columns
    return None


def _alpaca(sample: _Sample) -> tuple[Shape, ColumnMapping] | None:
    instruction, output = sample.has("instruction"), sample.has("output", "response")
    context = sample.may_have("input", "context")
    if instruction and output and context:
        columns = ColumnMapping(
            input_column=instruction,
            target_column=output,
            context_column=context,
            system_column=sample.may_have("system"),
        )
        return Shape.ALPACA, columns
    return None


def _prompts(sample: _Sample) -> tuple[Shape, ColumnMapping] | None:
    prompt, answer = sample.has(*_PROMPTS), sample.has(*_ANSWERS)
    if not (prompt and answer):
        return None
    thumb = sample.may_have(*_THUMBS)
    if thumb and not sample.mostly(thumb, _is_thumb):
        thumb = ""
    columns = ColumnMapping(
        input_column=prompt,
        target_column=answer,
        system_column=sample.may_have("system"),
        desirable_column=thumb,
    )
    return (Shape.THUMBS if thumb else Shape.PROMPT_COMPLETION), columns


def _corpus(sample: _Sample) -> tuple[Shape, ColumnMapping] | None:
    text = sample.has(*_TEXTS)
    if text and sample.mostly(text, lambda value: isinstance(value, str)):
        return Shape.CORPUS, ColumnMapping(text_column=text, group_column=sample.has("file"))
    return None


def _is_json_list(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("[")


def _is_thumb(value: Any) -> bool:
    return value in (0, 1) or (isinstance(value, str) and value.lower() in {"true", "false", "0", "1", "yes", "no"})
