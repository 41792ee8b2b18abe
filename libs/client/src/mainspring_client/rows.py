"""A smaller table out of a large one: whole groups, chosen by a hash, so that the choice is the same on any machine."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from mainspring_svckit.errors import InvalidInput

_MAX_FIELD = 1 << 24


def sample(source: Path, target: Path, rows: int, group_column: str) -> int:
    """Writes about `rows` rows of a CSV or JSONL file to `target`; returns how many.

    Groups (rows with the same value in `group_column`) come whole, in the order of a hash of their value, until there
    are enough rows; the rows keep the order of the file. Rows that cannot be read are left to data-ingest, which says
    what is wrong with them. Memory holds a digest for each group, not the rows.

    Raises:
        InvalidInput: FILE_UNREADABLE.
    """
    try:
        sizes: dict[bytes, int] = {}
        for key, _ in _records(source, group_column):
            sizes[key] = sizes.get(key, 0) + 1
        chosen: set[bytes] = set()
        count = 0
        for key in sorted(sizes):
            if count >= rows:
                break
            chosen.add(key)
            count += sizes[key]
        with target.open("w", encoding="utf-8", newline="") as out:
            if source.suffix.lower() == ".csv":
                csv.writer(out).writerow(_header(source))
            for key, record in _records(source, group_column):
                if key in chosen:
                    out.write(record)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise InvalidInput(f"{source} cannot be read: {err}", reason="FILE_UNREADABLE") from err
    return count


def _records(path: Path, group_column: str) -> Iterator[tuple[bytes, str]]:
    """Digest of the group and text of each record."""
    if path.suffix.lower() == ".csv":
        yield from _csv_records(path, group_column)
        return
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                value = json.loads(line)[group_column]
            except (ValueError, KeyError, TypeError, RecursionError):
                value = line
            yield _digest(json.dumps(value) if not isinstance(value, str) else value), line.rstrip("\n") + "\n"


def _csv_records(path: Path, group_column: str) -> Iterator[tuple[bytes, str]]:
    csv.field_size_limit(_MAX_FIELD)
    header = _header(path)
    place = header.index(group_column) if group_column in header else 0
    writer = _Line()
    printer = csv.writer(writer)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        next(reader, None)
        for fields in reader:
            printer.writerow(fields)
            yield _digest(fields[place] if place < len(fields) else ""), writer.text


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:16]


class _Line:
    """Takes one line from the CSV writer."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text
