"""Writes docs/errors.md, the list of all stable error reasons, from the code that raises them; or checks it.

usage: python tools/reasons.py write | check
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
# Class -> gRPC status, and where the reason stands among the arguments when it is not given by name.
ERRORS = {
    "InvalidInput": ("INVALID_ARGUMENT", None),
    "PreconditionFailed": ("FAILED_PRECONDITION", 0),
    "Unavailable": ("UNAVAILABLE", 0),
    "Refused": ("FAILED_PRECONDITION", 0),
    "RowRefused": ("row", 0),
}
_REASON = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
HEAD = """\
# Error reasons

Every error has a gRPC status, a message that says what to do, and in `google.rpc.ErrorInfo` (domain `mainspring`) a
reason that never changes; the gateway gives it as `code`. Programs decide by the reason, people read the message. Made
by `make docs` from the code that raises them; do not edit.

Something that is not there has the reason of its kind and the status NOT_FOUND: `MODEL_VERSION_NOT_FOUND`,
`DATASET_NOT_FOUND` and so on.

| reason | status | what it says | raised by |
|---|---|---|---|
"""


def reasons() -> dict[str, tuple[set[str], set[str], str]]:
    """Statuses, packages and one message for each reason."""
    found: dict[str, tuple[set[str], set[str], str]] = defaultdict(lambda: (set(), set(), ""))
    for path in sorted([*ROOT.glob("libs/*/src"), *ROOT.glob("services/*/src"), *ROOT.glob("services/*/*/src")]):
        if "contracts" in path.parts or "testkit" in path.parts:
            continue
        package = str(path.parent.relative_to(ROOT)).split("/", 1)[1]
        for file in sorted(path.rglob("*.py")):
            for reason, status, message in _raised(ast.parse(file.read_text(encoding="utf-8"))):
                statuses, packages, known = found[reason]
                found[reason] = (statuses | {status}, packages | {package}, known or message)
    return dict(found)


def _raised(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    assigned = [
        (node.lineno, target.id, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in ERRORS:
            continue
        status, position = ERRORS[node.func.id]
        named = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
        given = named or (node.args[position : position + 1] if position is not None else [])
        if not given or not isinstance(given[0], ast.Constant) or not isinstance(given[0].value, str):
            continue
        if not _REASON.fullmatch(given[0].value):
            continue
        others = [argument for argument in node.args if argument is not given[0]]
        message = others[0] if others else None
        if isinstance(message, ast.Name):
            # The nearest assignment above.
            earlier = [entry for entry in assigned if entry[1] == message.id and entry[0] < node.lineno]
            message = max(earlier, key=lambda entry: entry[0])[2] if earlier else None
        yield given[0].value, status, _words(message)


def _words(node: ast.expr | None) -> str:
    """A message with its values left out."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in values)
        case _:
            return ""


def page() -> str:
    rows: list[str] = []
    for reason, (statuses, packages, message) in sorted(reasons().items()):
        said = message.replace("|", "\\|")
        rows.append(f"| `{reason}` | {', '.join(sorted(statuses))} | {said} | {', '.join(sorted(packages))} |")
    return HEAD + "\n".join(rows) + "\n"


def main() -> None:
    match sys.argv[1:]:
        case ["write"]:
            PAGE.write_text(page(), encoding="utf-8")
        case ["check"]:
            if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
                sys.exit("docs/errors.md is not what the code raises; run `make docs`")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
