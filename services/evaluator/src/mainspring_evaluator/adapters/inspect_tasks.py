"""Items of a dataset of Inspect: rows of JSON with `input` and `target`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mainspring_evaluator.adapters.task_rows import at, item_of, json_rows, texts
from mainspring_evaluator.domain.items import Item
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import Message

_NEEDS = ("sandbox", "files", "setup")


def inspect_items(path: Path) -> Iterator[Item]:
    """Items of a dataset of Inspect: `input` (text or messages), `target` (one or several), `choices`.

    Raises:
        PreconditionFailed: TASK_UNSUPPORTED, it asks for what is not done here.
        ValueError: It cannot be read; it says where.
    """
    for place, row in json_rows(path):
        with at(place):
            item = _inspect_item(path, row)
        yield item


def _inspect_item(path: Path, row: dict[str, Any]) -> Item:
    if needed := [key for key in _NEEDS if row.get(key)]:
        message = f"{path.name} has items that need {' and '.join(needed)}, which is not done here; take them out"
        raise PreconditionFailed("TASK_UNSUPPORTED", message, {"path": path.name})
    given: Any = row["input"]
    turns: Any = [{"role": "user", "content": given}] if isinstance(given, str) else given
    prompt = [_message(turn) for turn in turns]
    values = texts("target", row["target"])
    if prompt and (choices := row.get("choices")):
        if not isinstance(choices, list):
            raise ValueError("choices must be a list")
        letters = [chr(ord("A") + index) for index in range(len(choices))]
        listed = "\n".join(f"{letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))
        last = prompt[-1]
        prompt[-1] = Message(last.role, f"{last.content}\n\n{listed}")
        by_letter = dict(zip(letters, map(str, choices), strict=True))
        values = [form for value in values for form in (value, by_letter.get(value, value))]
    return item_of(prompt, list(dict.fromkeys(values)))


def _message(turn: Any) -> Message:
    role, content = turn["role"], turn["content"]
    if not isinstance(content, str):
        raise ValueError("the content of a message must be text")
    return Message(str(role), content)
