"""Which local files a specification names, and the same specification for a place that has them elsewhere. Pure but for
reading files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INPUTS = "inputs"


@dataclass(frozen=True)
class Sent:
    """A file to send: its digest, and where it lies here."""

    sha256: str
    source: Path


@dataclass(frozen=True)
class Shipment:
    """What a node needs for a run.

    Attributes:
        spec: The specification, with paths relative to the folder that holds the files.
        files: Files by relative path.
    """

    spec: Mapping[str, Any]
    files: Mapping[str, Sent]


class Packer:
    """Makes shipments of one run; each file is read once, however often the run is sent."""

    def __init__(self) -> None:
        self._digests: dict[tuple[Path, int, int], str] = {}

    def pack(self, spec: Mapping[str, Any]) -> Shipment:
        """What is needed for a specification."""
        files: dict[str, Sent] = {}
        places: dict[str, str] = {}

        def place(path: str) -> str:
            if path not in places:
                places[path] = f"{_INPUTS}/{len(places)}"
                source = Path(path)
                if source.is_dir():
                    found = sorted(p for p in source.rglob("*") if p.is_file())
                    files.update({f"{places[path]}/{p.relative_to(source)}": self._sent(p) for p in found})
                else:
                    files[places[path]] = self._sent(source)
            return places[path]

        return Shipment(relocated(spec, place), files)

    def _sent(self, path: Path) -> Sent:
        # A checkpoint comes under the name of the one before.
        status = path.stat()
        known = (path, status.st_ino, status.st_mtime_ns)
        if known not in self._digests:
            with path.open("rb") as file:
                self._digests[known] = hashlib.file_digest(file, "sha256").hexdigest()
        return Sent(self._digests[known], path)


def relocated(spec: Mapping[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """A specification with every path to an input replaced."""
    made: dict[str, Any] = json.loads(json.dumps(spec))  # A copy in which no part is shared.
    parent, helper = made["parent"] or {}, made["helper"] or {}
    shards = [*made["train"], *made["validation"], *parent.get("known", ())]
    named = [(made, "base_model"), (made, "resume_from"), (parent, "adapter"), (helper, "base_model")]
    for holder, key in (*named, (helper, "adapter"), *((shard, "path") for shard in shards)):
        if holder.get(key):
            holder[key] = place(holder[key])
    return made
