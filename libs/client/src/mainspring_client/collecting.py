"""Files on this machine as sources: which a person means, and documents put together to one archive."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from tempfile import TemporaryDirectory

from mainspring_svckit.errors import InvalidInput

DOCUMENTS = frozenset({".txt", ".md", ".markdown", ".html", ".htm", ".pdf", ".docx", ".py"})
"""Endings of files that are one text each; many of them are sent as one archive."""
MAX_SOURCES = 1_000
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class LocalSource:
    """A file to send, and the name that it is shown by."""

    path: Path
    name: str


def collect(texts: Sequence[str], stack: ExitStack) -> list[LocalSource]:
    """The sources that files, folders and patterns (`data/**/*.jsonl`) name, in the order of their names.

    Several documents become one archive, whose bytes follow from theirs alone, so that a repeat is the same source.

    Args:
        texts: What a person named.
        stack: Removes the archive when it is closed.

    Raises:
        InvalidInput: FILE_UNREADABLE, nothing is there; TOO_MANY_FILES.
    """
    found: dict[Path, str] = {}
    for text in texts:
        matches = _matches(text)
        if not matches:
            raise InvalidInput(f"{text} names no file that can be read; check the path", reason="FILE_UNREADABLE")
        found.update(matches)
    documents = {path: name for path, name in found.items() if path.suffix.lower() in DOCUMENTS}
    tables = [LocalSource(path, Path(name).name) for path, name in found.items() if path not in documents]
    if len(documents) == 1:
        tables += [LocalSource(path, Path(name).name) for path, name in documents.items()]
    elif documents:
        archive = Path(stack.enter_context(TemporaryDirectory(prefix="mainspring-documents-"))) / "documents.zip"
        _pack(documents, archive)
        tables.append(LocalSource(archive, archive.name))
    if len(tables) > MAX_SOURCES:
        message = f"{len(tables)} files are more than the {MAX_SOURCES} that one version is made of; join some of them"
        raise InvalidInput(message, reason="TOO_MANY_FILES")
    return tables


def _matches(text: str) -> dict[Path, str]:
    """Files by their names below the folder that was named; links that lead out of it, and hidden files, are left."""
    path = Path(text)
    if path.is_file():
        return {path: path.name}
    if path.is_dir():
        base, candidates = path, sorted(path.rglob("*"))
    elif has_magic(text):
        plain = next(number for number, part in enumerate(path.parts) if has_magic(part))
        base = Path(*path.parts[:plain])
        candidates = sorted(base.glob(str(Path(*path.parts[plain:]))))
    else:
        return {}
    inside = base.resolve()
    return {
        file: str(file.relative_to(base))
        for file in candidates
        if file.is_file()
        and file.resolve().is_relative_to(inside)
        and not any(part.startswith(".") for part in file.relative_to(base).parts)
    }


def _pack(documents: dict[Path, str], archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path, name in sorted(documents.items(), key=lambda item: item[1]):
            with path.open("rb") as document, file.open(zipfile.ZipInfo(name, _EPOCH), "w") as member:
                while chunk := document.read(1 << 20):
                    member.write(chunk)
