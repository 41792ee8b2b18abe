"""Rows of files that others made (JSON, JSON Lines, CSV, Parquet), and the items that they become.

Data can fail in any way; whatever it is, the file is unreadable, and the message says where.
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
SAID_CHARACTERS = 500
"""Most characters of what went wrong, in a message."""
Row = tuple[str, dict[str, Any]]
"""Where a row stands, and what it says."""


@contextmanager
def at(place: str) -> Iterator[None]:
    """Says where something failed."""
    try:
        yield
    except PreconditionFailed:
        raise
    except Exception as err:  # Templates, and files of any form, fail in as many ways as there are.
        said = str(err) if isinstance(err, ValueError) else f"{type(err).__name__}: {err}"
        raise ValueError(f"{place}: {printable(said[:SAID_CHARACTERS])}") from err


def printable(text: str) -> str:
    """The text without what a run's message cannot hold: the character NUL, and half of a surrogate pair."""
    return storable(text).encode("utf-8", "backslashreplace").decode()


def texts(field: str, value: Any) -> list[str]:
    """One value or several, as text."""
    values: list[Any] = list(value) if isinstance(value, list) else [value]  # type: ignore[arg-type]
    if any(each is None or isinstance(each, list | dict) for each in values):
        raise ValueError(f"{field} must be one value or several, and none of them empty")
    return [str(each) for each in values]


def item_of(prompt: Sequence[Message], references: Sequence[str]) -> Item:
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


def json_rows(path: Path) -> Iterator[Row]:
    with at(path.name):
        text = read_text(path)
        is_list = text.lstrip().startswith("[")
        # Other ends of lines that Python knows may stand within a text.
        entries: list[Any] = json.loads(text) if is_list else text.split("\n")
    for number, entry in enumerate(entries, start=1):
        if is_list or entry.strip():
            place = f"{path.name} {'entry' if is_list else 'line'} {number}"
            with at(place):
                row: Any = entry if is_list else json.loads(entry)
                if not isinstance(row, dict):
                    raise ValueError("it must be an object")
            yield place, row


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CELL)  # Of the whole process: others may have set it to what they read.
    with at(path.name):
        reader = csv.DictReader(io.StringIO(read_text(path)))
        _ = reader.fieldnames  # Reads the first line.
    while True:
        place = f"{path.name} line {reader.line_num + 1}"
        with at(place):
            row = next(reader, None)
        if row is None:
            return
        yield place, row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with at(path.name):
        _check_size(path)
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    for number, row in enumerate(rows, start=1):
        yield f"{path.name} row {number}", row


ROWS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    "json": json_rows,
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
