"""Items of other harnesses' tasks: lm-evaluation-harness (YAML with its data beside it) and Inspect (rows of JSON).

Data and templates are others' and can fail in any way; whatever it is, the task is unreadable, and the message says
where. What a task asks for and is not done here is refused by its name, lest other figures come out than its author
means.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mainspring_evaluator.domain.items import ROLES, Item, storable
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import Message

_MAX_FILE_BYTES = 64 << 20
_MAX_CELL = 1 << 17
"""Characters of one cell of a CSV file."""
Row = tuple[str, dict[str, Any]]
"""Where a row stands, and what it says."""
_SAID_CHARACTERS = 500
# What is read of a task of lm-evaluation-harness, and what changes neither what is asked nor what is right.
_READ = frozenset(
    [
        "dataset_kwargs",
        "dataset_path",
        "description",
        "doc_to_choice",
        "doc_to_target",
        "doc_to_text",
        "test_split",
        "validation_split",
    ]
)
_DESCRIBES = frozenset(
    [
        "dataset_name",
        "doc_to_decontamination_query",
        "fewshot_config",
        "fewshot_delimiter",
        "fewshot_split",
        "generation_kwargs",
        "group",
        "group_alias",
        "metadata",
        "metric_list",
        "should_decontaminate",
        "tag",
        "target_delimiter",
        "task",
        "task_alias",
        "training_split",
        "version",
    ]
)
_AS_IT_IS = {"num_fewshot": 0, "output_type": "generate_until", "repeats": 1}
"""Values that ask for what is done anyhow."""
_INSTEAD = {
    "filter_list": "answers are scored whole; have the model asked for the answer alone by the source's instruction",
    "num_fewshot": "items are asked without examples, which is 0",
    "output_type": "every item is answered in words and the answer is scored, which is generate_until",
    "repeats": "each item is asked once",
}
_INSPECT_NEEDS = ("sandbox", "files", "setup")


def lm_eval_items(path: Path, roots: Sequence[Path]) -> Iterator[Item]:
    """Items of a task in YAML whose data lies beside it, below one of `roots`.

    Raises:
        PreconditionFailed: TASK_UNSUPPORTED, it asks for what is not done here.
        ValueError: It cannot be read; it says where.
    """
    with _at(path.name):
        task = _read_yaml(path)
        _check_supported(path, task)
        if task.get("dataset_path") not in _ROWS:
            raise ValueError("dataset_path must be json, csv or parquet; data is never fetched")
        files = task["dataset_kwargs"]["data_files"]
        split = str(task.get("test_split") or task.get("validation_split") or "test")
        named: Any = files[split] if isinstance(files, dict) else files
        names: list[Any] = [named] if isinstance(named, str) else list(named)
    for name in names:
        with _at(path.name):
            data = (path.parent / str(name)).resolve()
            if not any(data.is_relative_to(root) for root in roots):
                raise ValueError(f"{name} is outside the task roots")
        for place, row in _ROWS[task["dataset_path"]](data):
            with _at(place):
                item = _lm_eval_item(task, row)
            yield item


def inspect_items(path: Path) -> Iterator[Item]:
    """Items of a dataset of Inspect: `input` (text or messages), `target` (one or several), `choices`. Raises as
    `lm_eval_items`.
    """
    for place, row in _json_rows(path):
        with _at(place):
            item = _inspect_item(path, row)
        yield item


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Says where something failed."""
    try:
        yield
    except PreconditionFailed:
        raise
    except Exception as err:  # Templates, and files of any form, fail in as many ways as there are.
        said = str(err) if isinstance(err, ValueError) else f"{type(err).__name__}: {err}"
        raise ValueError(f"{place}: {_printable(said[:_SAID_CHARACTERS])}") from err


def _printable(text: str) -> str:
    """The text without what a run's message cannot hold: the character NUL, and half of a surrogate pair."""
    return storable(text).encode("utf-8", "backslashreplace").decode()


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Knows no tags but YAML's own, so that `!function` is refused."""

    try:
        document: Any = yaml.load(read_text(path), Loader)  # noqa: S506 - a subclass of SafeLoader.
    except yaml.YAMLError as err:
        raise ValueError(f"it is no YAML, or wants code to be run: {err}") from err
    if not isinstance(document, dict) or "include" in document:
        raise ValueError("it must be one mapping without 'include'")
    return document  # type: ignore[return-value]


def _check_supported(path: Path, task: Mapping[str, Any]) -> None:
    """Refuses a task that asks for what is not done here. What is empty asks for nothing."""
    asked = {str(key): value for key, value in task.items() if value and key not in _READ | _DESCRIBES}
    asked |= {
        f"dataset_kwargs.{key}": value
        for key, value in (dict[str, Any](task.get("dataset_kwargs") or {})).items()
        if value and key != "data_files"
    }
    unsupported = [key for key, value in asked.items() if key not in _AS_IT_IS or value != _AS_IT_IS[key]]
    if unsupported:
        told = "; ".join(f"{key} ({_INSTEAD[key]})" if key in _INSTEAD else _printable(key) for key in unsupported)
        message = f"{path.name} asks for what is not applied here: {told[:_SAID_CHARACTERS]}; take it out of the task"
        raise PreconditionFailed("TASK_UNSUPPORTED", message, {"path": path.name})


def _lm_eval_item(task: Mapping[str, Any], row: dict[str, Any]) -> Item:
    prompt = [Message("user", _rendered("doc_to_text", task.get("doc_to_text"), row))]
    description = task.get("description") or ""
    if not isinstance(description, str):
        raise ValueError("description must be text or a template")
    if description.strip():
        prompt.insert(0, Message("system", _by_template("description", description.strip(), row)))
    return _item(prompt, _targets(task.get("doc_to_target"), task.get("doc_to_choice"), row))


def _rendered(field: str, template: Any, row: dict[str, Any]) -> str:
    """A column that a task names, or its template."""
    if not isinstance(template, str):
        raise ValueError(f"{field} must be a column or a template")
    if template not in row:
        return _by_template(field, template, row)
    if row[template] is None:
        raise ValueError(f"{template} is empty")
    return str(row[template])


def _by_template(field: str, template: str, row: dict[str, Any]) -> str:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        return environment.from_string(template).render(row)
    except TemplateError as err:
        raise ValueError(f"the template {field} cannot be rendered: {err}") from err


def _targets(target: Any, choices: Any, row: dict[str, Any]) -> list[str]:
    """The right answers: a column, a template or values; a number or its digits choose where there are choices."""
    value: Any = row[target] if isinstance(target, str) and target in row else target
    if isinstance(value, str) and "{{" in value:
        value = _by_template("doc_to_target", value, row)
    if choices is not None:
        listed: Any = row.get(choices) if isinstance(choices, str) else choices
        if not isinstance(listed, list):
            raise ValueError("doc_to_choice must be a list, or a column with one")
        if isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()):
            place = int(value)
            if not 0 <= place < len(listed):  # type: ignore[arg-type]
                raise ValueError(f"the target {place} is none of its {len(listed)} choices")  # type: ignore[arg-type]
            value = listed[place]
    return [text.strip() for text in _texts("doc_to_target", value)]


def _inspect_item(path: Path, row: dict[str, Any]) -> Item:
    if needed := [key for key in _INSPECT_NEEDS if row.get(key)]:
        message = f"{path.name} has items that need {' and '.join(needed)}, which is not done here; take them out"
        raise PreconditionFailed("TASK_UNSUPPORTED", message, {"path": path.name})
    given: Any = row["input"]
    turns: Any = [{"role": "user", "content": given}] if isinstance(given, str) else given
    prompt = [_message(turn) for turn in turns]
    values = _texts("target", row["target"])
    if prompt and (choices := row.get("choices")):
        if not isinstance(choices, list):
            raise ValueError("choices must be a list")
        letters = [chr(ord("A") + index) for index in range(len(choices))]
        listed = "\n".join(f"{letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))
        last = prompt[-1]
        prompt[-1] = Message(last.role, f"{last.content}\n\n{listed}")
        by_letter = dict(zip(letters, map(str, choices), strict=True))
        values = [form for value in values for form in (value, by_letter.get(value, value))]
    return _item(prompt, list(dict.fromkeys(values)))


def _message(turn: Any) -> Message:
    role, content = turn["role"], turn["content"]
    if not isinstance(content, str):
        raise ValueError("the content of a message must be text")
    return Message(str(role), content)


def _texts(field: str, value: Any) -> list[str]:
    """One value or several, as text."""
    values: list[Any] = list(value) if isinstance(value, list) else [value]  # type: ignore[arg-type]
    if any(each is None or isinstance(each, list | dict) for each in values):
        raise ValueError(f"{field} must be one value or several, and none of them empty")
    return [str(each) for each in values]


def _item(prompt: Sequence[Message], references: Sequence[str]) -> Item:
    """An item that a model can be asked.

    Raises:
        ValueError: Nobody could: it has no message, or one that does not end in a question or is no text.
    """
    if not prompt:
        raise ValueError("it has no message")
    if strange := {message.role for message in prompt} - ROLES:
        raise ValueError(f"a message is of {', '.join(sorted(strange))}; there are system, user and assistant")
    if prompt[-1].role == "assistant":
        raise ValueError("the last message is an answer")
    for text in (*(message.content for message in prompt), *references):
        text.encode()  # Half a character cannot be sent.
    return Item(tuple(prompt), tuple(references))


def _json_rows(path: Path) -> Iterator[Row]:
    with _at(path.name):
        text = read_text(path)
        is_list = text.lstrip().startswith("[")
        # Other ends of lines that Python knows may stand within a text.
        entries: list[Any] = json.loads(text) if is_list else text.split("\n")
    for number, entry in enumerate(entries, start=1):
        if is_list or entry.strip():
            place = f"{path.name} {'entry' if is_list else 'line'} {number}"
            with _at(place):
                row: Any = entry if is_list else json.loads(entry)
                if not isinstance(row, dict):
                    raise ValueError("it must be an object")
            yield place, row


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CELL)  # Of the whole process: others may have set it to what they read.
    with _at(path.name):
        reader = csv.DictReader(io.StringIO(read_text(path)))
        _ = reader.fieldnames  # Reads the first line.
    while True:
        place = f"{path.name} line {reader.line_num + 1}"
        with _at(place):
            row = next(reader, None)
        if row is None:
            return
        yield place, row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with _at(path.name):
        _check_size(path)
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    for number, row in enumerate(rows, start=1):
        yield f"{path.name} row {number}", row


_ROWS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    "json": _json_rows,
    "csv": _csv_rows,
    "parquet": _parquet_rows,
}
"""How rows are read, by `dataset_path`."""


def read_text(path: Path) -> str:
    """What a file says; ValueError when it is too large or no text."""
    _check_size(path)
    return path.read_text(encoding="utf-8")


def _check_size(path: Path) -> None:
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path.name} is larger than {_MAX_FILE_BYTES >> 20} MiB")
