"""What commands print: tables for people, JSON for programs, progress, and errors with what to do next."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from mainspring_svckit.errors import MainspringError

_BAR = 24
"""Width of a progress bar, in characters."""
Columns = Mapping[str, Callable[[Any], object]]

_NEXT_BY_CODE = {
    "INVALID_ARGUMENT": "correct what is named above and run the command again",
    "UNAUTHENTICATED": "make a token with 'mainspring token create' and put it into MAINSPRING_TOKEN",
    "PERMISSION_DENIED": "use the token of somebody with that role, or 'mainspring token create --role ...'",
    "NOT_FOUND": "check the name and --project; the command 'list' of the same group shows what there is",
    "ALREADY_EXISTS": "choose another name, or use what is there",
    "FAILED_PRECONDITION": "mend what the message names, then run the command again",
    "ABORTED": "somebody else changed the same thing; run the command again",
    "RESOURCE_EXHAUSTED": "free what the message names, then run the command again",
    "UNAVAILABLE": "'mainspring status' shows what is not ready, 'mainspring logs SERVICE' why; then try again",
}
_NEXT_BY_REASON = {
    "STACK_NOT_RUNNING": "'mainspring up' starts it; another installation is named by MAINSPRING_ADDRESS"
    " and MAINSPRING_TOKEN",
    "STACK_NOT_READY": "'mainspring status' shows how it goes on; 'mainspring down' stops it",
    "STACK_NOT_STARTED": "mend what the log says, then run 'mainspring up' again",
    "OBJECT_NOT_FOUND": "check bucket and path; s3://BUCKET/FOLDER/ and patterns take all that there is",
    "SERVED_MODEL_NOT_FOUND": "only released models answer: 'mainspring models list' shows which, 'mainspring releases"
    " check MODEL/VERSION' what a release wants",
    "SOURCE_UNREACHABLE": "run the command again in a moment",
    "PORT_TAKEN": "leave the option out to get a free port",
}


def to_dict(value: Any) -> Any:
    """Messages, and what holds them, as JSON values with the contracts' own field names."""
    from google.protobuf import json_format
    from google.protobuf.message import Message

    if isinstance(value, Message):
        return json_format.MessageToDict(
            value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType] - JSON.
    if isinstance(value, (list, tuple)):
        return [to_dict(item) for item in value]  # pyright: ignore[reportUnknownVariableType] - JSON.
    return value


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Prints JSON on the standard output."""
    print(json.dumps(to_dict(value), indent=indent, ensure_ascii=False), flush=True)


def print_table(rows: Iterable[Any], columns: Columns, empty: str) -> None:
    """Prints a table for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = list(rows)
    if not found:
        print(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in columns:
        table.add_column(title, overflow="fold")
    for row in found:
        # Text, not markup: what people and models wrote may hold brackets and control characters.
        table.add_row(*(Text(printable(str(value(row)))) for value in columns.values()))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table)


def print_lines_of_versions(found: Iterable[Any], kind: str, empty: str) -> None:
    """Prints what has versions and labels, for people."""
    columns: Columns = {
        kind: lambda line: short(line.name),
        "newest": lambda line: line.latest_version.rsplit("/", 1)[-1],
        "labels": lambda line: ", ".join(f"{label}={version}" for label, version in sorted(line.labels.items())),
    }
    print_table(found, columns, empty)


def print_fields(values: Mapping[str, object]) -> None:
    """Prints one thing for people, a line for each field."""
    width = max(map(len, values), default=0)
    for key, value in values.items():
        lines = printable(str(value)).splitlines() or [""]
        print(f"{key:<{width}}  {lines[0]}")
        for line in lines[1:]:
            print(f"{'':<{width}}  {line}")


def printable(text: str) -> str:
    """Text without control characters but line breaks and tabs, so that it cannot steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def short(name: str) -> str:
    """A resource name without its project, as commands take it."""
    parts = name.split("/")
    if len(parts) < 4 or parts[0] != "projects":
        return name
    return "/".join(parts[3::2])


def state_of(message: Any, field: str = "state") -> str:
    """An enum's value without its prefix."""
    descriptor = message.DESCRIPTOR.fields_by_name[field].enum_type
    value = descriptor.values_by_number.get(getattr(message, field))
    return value.name.partition("_")[2] if value is not None else "?"


def enum_name(descriptor: Any, number: int, prefix: str) -> str:
    """Name of a value of a top-level enum, lower case, without its prefix."""
    value = descriptor.values_by_number.get(number)
    return value.name.removeprefix(prefix).lower() if value is not None else "?"


def when(stamp: Any) -> str:
    """A protobuf time, local to the machine."""
    if not stamp.seconds:
        return ""
    return datetime.fromtimestamp(stamp.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def progress_text(resource: Any, field: str = "state") -> str:
    """State and progress of long work in one line."""
    text = state_of(resource, field)
    return f"{text} {done_text(resource.progress)}".rstrip() if resource.HasField("progress") else text


def done_text(progress: Any) -> str:
    """How far long work is."""
    text = progress.phase
    if progress.total:
        text += f" {progress.done}/{progress.total} {progress.unit}"
    elif progress.done:
        text += f" {progress.done} {progress.unit}"
    if progress.HasField("remaining"):
        text += f", {progress.remaining.seconds} s left"
    return text.strip()


def estimate_text(estimate: Any) -> str:
    """A measured value with its interval."""
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


class Ticker:
    """One line on the standard error that tells how things go: rewritten on a terminal, else a line for each change."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._status: Any = None
        self._last = ""

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status("", spinner="dots")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def tell(self, text: str) -> None:
        """Shows how things stand; nothing when that has not changed."""
        if self._quiet or text == self._last:
            return
        self._last = text
        if self._status is not None:
            from rich.markup import escape

            self._status.update(escape(printable(text)))
        else:
            print(printable(text), file=sys.stderr, flush=True)

    def progress(self, text: str, done: int, total: int) -> None:
        """Shows how things stand, on a terminal with a bar where the end is known."""
        if self._status is not None and total:
            filled = min(_BAR, _BAR * done // total)
            text = f"{'#' * filled}{'.' * (_BAR - filled)} {min(100, 100 * done // total)} %  {text}"
        self.tell(text)

    def keep(self, text: str) -> None:
        """Prints a line that stays."""
        if self._quiet:
            return
        if self._status is not None:
            from rich.markup import escape

            self._status.console.print(escape(printable(text)))
        else:
            print(printable(text), file=sys.stderr, flush=True)


def print_error(error: MainspringError) -> None:
    """Prints what went wrong on the standard error: the reason, the message, the fields, and what to do next."""
    from mainspring_svckit.errors import InvalidInput

    err = sys.stderr
    print(f"error {error.reason}: {printable(error.message)}", file=err)
    if isinstance(error, InvalidInput):
        for violation in error.violations:
            if violation.description not in error.message:
                print(f"  {printable(violation.field) or '(document)'}: {printable(violation.description)}", file=err)
    for note in getattr(error, "__notes__", ()):
        print(f"  {note}", file=err)
    following = _NEXT_BY_REASON.get(error.reason) or _NEXT_BY_CODE.get(error.code)
    if following:
        print(f"next: {following}", file=err)
