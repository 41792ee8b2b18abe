"""Prints which tests prove which faults and bad inputs: their ids stand in the names of tests (CONTRIBUTING.md).

usage: python tools/faults.py
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AREAS = {"a": "access", "b": "bad input", "f": "faults", "i": "invariants"}
_TEST = re.compile(r"^\s*(?:async )?def test_((?:[abfi]\d+_)+)(\w+)", re.MULTILINE)


def main() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(ROOT.rglob("test_*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts[0].startswith("."):
            continue
        for ids, words in _TEST.findall(path.read_text(encoding="utf-8")):
            for name in ids.strip("_").split("_"):
                found[name].append(f"{words.replace('_', ' ')}  ({relative})")
    for name in sorted(found, key=lambda key: (key[0], int(key[1:]))):
        print(f"{name.upper()}  {AREAS[name[0]]}")
        for line in found[name]:
            print(f"    {line}")


if __name__ == "__main__":
    main()
