"""Reads documented functions and classes from Python code.

Nothing is imported or run: files are parsed. An entry is what an author wrote as the first sentence of a docstring, and
what a reader sees of the code without it: the signature, and the rest of the docstring or, where there is none, the
beginning of the body.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

MAX_FILE_BYTES = 400_000
MIN_WORDS, MAX_WORDS = 4, 20
MIN_TOLD_CHARACTERS = 30
"""With less than this there is nothing to summarise."""
_SIGNATURE_CHARACTERS, _TEXT_CHARACTERS = 240, 420
_SKIPPED = {
    "__pycache__",
    "_vendor",
    "vendor",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "ensurepip",
    "test",
    "tests",
    "testing",
}
_MARKUP = re.compile(r"[`*<>{}|\\]|::|:[a-z]+:|https?:|@|\bTODO\b|\bXXX\b|>>>|__\w+__")

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Entry:
    """One documented function or class.

    Attributes:
        module: File, relative to its root; entries of one file belong together.
        name: Qualified name inside the module.
        text: What the model is given.
        summary: What the author wrote.
        line: Where its definition begins, from 1.
    """

    module: str
    name: str
    text: str
    summary: str
    line: int = 1


def installed_roots() -> list[Path]:
    """The standard library, and the packages beside the running interpreter."""
    paths = sysconfig.get_paths()
    return [Path(paths["stdlib"]), Path(paths["purelib"])]


def read_entries(roots: list[Path], *, most_per_file: int, most_per_package: int) -> Iterator[Entry]:
    """Usable entries below the roots, file by file; files that cannot be parsed are passed over.

    Files come in the order of the hashes of their names, so that the first of them are a fair sample of everything, and
    the same on every machine with the same code. The bounds keep one generated client, which repeats itself thousands
    of times, from being most of it.
    """
    files = [
        (f"{root.name}/{path.relative_to(root)}", path)
        for root in roots
        for path in root.rglob("*.py")
        if not _skipped(path.relative_to(root))
    ]
    taken: Counter[str] = Counter()
    for module, path in sorted(files, key=lambda file: hashlib.sha256(file[0].encode()).digest()):
        package = "/".join(module.split("/")[:2])
        if taken[package] >= most_per_package:
            continue
        for entry in islice(_file_entries(path, module), min(most_per_file, most_per_package - taken[package])):
            taken[package] += 1
            yield entry


def _skipped(path: Path) -> bool:
    # `site-packages` lies inside the standard library's folder, and is a root of its own.
    parts = {*path.parts, path.stem}
    return bool(parts & {*_SKIPPED, "site-packages"}) or path.stem.endswith("_pb2") or path.stem.startswith("test_")


def _file_entries(path: Path, module: str) -> Iterator[Entry]:
    try:
        if path.stat().st_size <= MAX_FILE_BYTES:
            yield from entries_of(path.read_text(encoding="utf-8"), module)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return


def entries_of(source: str, module: str) -> Iterator[Entry]:
    """Usable entries of one file's code.

    Args:
        source: The code.
        module: Names the file in the entries.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: It cannot be parsed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        tree = ast.parse(source)
    lines = source.splitlines()
    for node, name in _documented(tree, ""):
        docstring = ast.get_docstring(node)
        entry = _entry(node, name, module, docstring, lines) if docstring else None
        if entry is not None:
            yield entry


def _documented(node: ast.Module | Documented, prefix: str) -> Iterator[tuple[Documented, str]]:
    for child in node.body:
        if isinstance(child, Documented):
            name = f"{prefix}{child.name}"
            yield child, name
            yield from _documented(child, f"{name}.")


def _entry(node: Documented, name: str, module: str, docstring: str, lines: list[str]) -> Entry | None:
    head, _, rest = docstring.strip().partition("\n\n")
    head_lines = head.splitlines()
    summary = " ".join(line.strip() for line in head_lines)
    if len(head_lines) > 2 or not _is_sentence(summary):
        return None
    told = _cut(rest.strip() or _body(node, lines))
    if len(told) < MIN_TOLD_CHARACTERS:
        return None
    return Entry(module, name, f"{_signature(node, lines)}\n{told}", summary, node.lineno)


def _is_sentence(text: str) -> bool:
    """Whether a summary is one plain English sentence of a usual length."""
    return (
        MIN_WORDS <= len(text.split()) <= MAX_WORDS
        and text.isascii()
        and text[0].isupper()
        and text.endswith(".")
        and ". " not in text
        and text.count("(") == text.count(")")
        and _MARKUP.search(text) is None
    )


def _signature(node: Documented, lines: list[str]) -> str:
    """The lines between `def` or `class` and the docstring, as one."""
    head = " ".join(line.strip() for line in lines[node.lineno - 1 : node.body[0].lineno - 1])
    return textwrap.shorten(head, _SIGNATURE_CHARACTERS, placeholder=" ...")


def _body(node: Documented, lines: list[str]) -> str:
    """The code after the docstring; of a class also the signatures of its methods, without their insides."""
    statements = node.body[1:]
    if isinstance(node, ast.ClassDef):
        kept = [
            lines[s.lineno - 1] if isinstance(s, Documented) else "\n".join(lines[s.lineno - 1 : s.end_lineno])
            for s in statements
        ]
        return "\n".join(kept)
    return "\n".join(lines[statements[0].lineno - 1 : node.end_lineno]) if statements else ""


def _cut(text: str) -> str:
    """The beginning of a text, at a line's or a word's end."""
    text = textwrap.dedent(text).strip()
    if len(text) <= _TEXT_CHARACTERS:
        return text
    head = text[:_TEXT_CHARACTERS]
    at_line, at_word = head.rfind("\n"), head.rfind(" ")
    return head[: at_line if at_line > _TEXT_CHARACTERS // 2 else at_word].rstrip()


def default_source() -> str:
    """What is read when the user names no folder, in words."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor}'s standard library and the packages beside it"
