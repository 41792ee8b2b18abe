"""Chunks of refined records on the disk: written by whoever refines, read by whoever compares and publishes.

A chunk is there when its `.json` is, which is written last and names the digests of its other files. So whatever a
killed process left is either whole or not there, and a run that goes on does no chunk twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.ipc as ipc

from mainspring_data_ingest.adapters.steps.base import Arrays
from mainspring_data_ingest.application.files import refused_line, refused_row
from mainspring_data_ingest.application.refining import Candidate, RecordChunk, RefinedChunk, not_utf8
from mainspring_data_ingest.domain.records import RefusalReason, RefusedRow
from mainspring_data_ingest.domain.splits import place_of

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ROW_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("messages", MESSAGES),
        ("group", pa.string()),
        ("source_index", pa.int32()),
        ("line", pa.int64()),
    ]
)
"""Columns of a version's shards."""
EXTRAS = {"rejected": pa.string(), "desirable": pa.bool_(), "synthetic": pa.bool_()}
"""Columns that a version has only when some row of it has a value there, in this order."""
_FIELDS = [pa.field(name, kind) for name, kind in EXTRAS.items()]
_SCHEMA = (
    pa.schema([*ROW_SCHEMA, *_FIELDS])
    .append(pa.field("canonical", pa.large_binary()))
    .append(pa.field("raw", pa.large_binary()))
)
_DIGESTS = ("row_low", "row_high", "prompt_low", "prompt_high", "group_low", "group_high")
_MEASURES = ("prompt_characters", "prompt_words", "answer_characters", "answer_words", "checksum")
KEYS = np.dtype(
    [
        *((name, "<u8") for name in _DIGESTS),
        *((name, "<u4") for name in _MEASURES),
        ("place", "<i8"),
        ("line", "<i8"),
        ("bytes", "<u4"),
        ("source", "<i4"),
        ("split_place", "u1"),
        ("changed", "<u4"),
        ("rejected", "?"),
        ("desirable", "?"),
        ("synthetic", "?"),
    ]
)
"""What is known of each candidate besides its texts."""
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class ChunkInfo:
    """What a chunk tells of itself.

    Attributes:
        number: Position among all chunks.
        source_index: Source of its records.
        records: Records.
        candidates: Records that passed all steps which look at single rows.
        not_utf8: Records refused because of their bytes.
        refusals: Records refused, by reason.
        first_refused: The first of them.
        steps: State of the `StepCounts` of each step; None where rows are compared.
        before: State of the `TextStatistics` of the records as they came.
        files: SHA-256 of each file, by what follows the chunk's number in its name.
    """

    number: int
    source_index: int
    records: int
    candidates: int
    not_utf8: int
    refusals: dict[RefusalReason, int]
    first_refused: dict[str, Any] | None
    steps: list[dict[str, Any] | None]
    before: dict[str, Any]
    files: dict[str, str]

    @property
    def first(self) -> RefusedRow | None:
        """The first refused record."""
        return refused_row(self.first_refused) if self.first_refused is not None else None


def encode(chunk: RecordChunk, made: RefinedChunk, probed: Mapping[int, Arrays]) -> Files:
    """A chunk as files; `probed` are the arrays of the steps that compare rows, by their position in the recipe."""
    lines = [candidate.row.canonical.encode() + b"\n" for candidate in made.candidates]
    files: dict[str, bytes] = {"arrow": _texts(made.candidates, lines), "keys.npy": _npy(_keys(made.candidates, lines))}
    for position, arrays in probed.items():
        files |= {f"{position}-{name}.npy": _npy(array) for name, array in arrays.items()}
    files["refused.jsonl"] = b"".join(refused_line(row) for _, row in made.refused)
    files["refused.npy"] = _npy(np.array([place for place, _ in made.refused], np.int64))
    info = {
        "number": chunk.number,
        "source_index": chunk.source_index,
        "records": len(chunk.records),
        "candidates": len(made.candidates),
        "not_utf8": not_utf8(made.refused),
        "refusals": Counter(row.reason.value for _, row in made.refused),
        "first_refused": orjson.loads(refused_line(made.refused[0][1])) if made.refused else None,
        "steps": [counts and counts.state() for counts in made.steps],
        "before": made.before.state(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return {**files, "json": orjson.dumps(info)}


class ChunkFolder:
    """The chunks of one ingestion."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(exist_ok=True)

    def put(self, number: int, files: Files) -> ChunkInfo:
        """Writes a chunk; its description last."""
        for name in sorted(files, key=lambda name: name == "json"):
            path = self._path(number, name)
            partial = path.with_name(f"{path.name}.partial")
            partial.write_bytes(files[name])
            partial.rename(path)
        return _info(files["json"])

    def finished(self, number: int) -> ChunkInfo | None:
        """A chunk that an earlier run finished, when all of its bytes are still what they were."""
        try:
            info = _info(self._path(number, "json").read_bytes())
            for name, digest in info.files.items():
                with self._path(number, name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return info

    def array(self, number: int, name: str) -> Any:
        """One of a chunk's arrays, mapped, not read."""
        return np.load(self._path(number, f"{name}.npy"), mmap_mode="r")

    def texts(self, number: int, *columns: str) -> Any:
        """Columns of a chunk's candidates; all of them when none is named."""
        wanted = [index for index, name in enumerate(_SCHEMA.names) if not columns or name in columns]
        options: Any = ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
        with pa.OSFile(str(self._path(number, "arrow"))) as file:
            return ipc.open_file(file, options=options).read_all()

    def refused_lines(self, number: int) -> Iterator[tuple[int, bytes]]:
        """A chunk's refused records with their places, as lines."""
        with self._path(number, "refused.jsonl").open("rb") as file:
            yield from zip(self.array(number, "refused").tolist(), file, strict=True)

    def _path(self, number: int, name: str) -> Path:
        return self._folder / f"{number:06}.{name}"


def _info(data: bytes) -> ChunkInfo:
    body = orjson.loads(data)
    body["refusals"] = {RefusalReason(reason): rows for reason, rows in body["refusals"].items()}
    return ChunkInfo(**body)


def _npy(array: Any) -> bytes:
    sink: Any = pa.BufferOutputStream()
    np.lib.format.write_array(sink, np.ascontiguousarray(array), allow_pickle=False)
    return sink.getvalue().to_pybytes()


def _keys(candidates: Sequence[Candidate], lines: Sequence[bytes]) -> Any:
    keys: Any = np.empty(len(candidates), KEYS)
    digests = b"".join([c.row.digest + c.row.prompt_digest + c.row.group_digest for c in candidates])
    for position, name in enumerate(_DIGESTS):
        keys[name] = np.frombuffer(digests, "<u8").reshape(-1, len(_DIGESTS))[:, position]
    measures = np.array([c.measure for c in candidates], np.uint32).reshape(-1, len(_MEASURES))
    for position, name in enumerate(_MEASURES):
        keys[name] = measures[:, position]
    keys["place"] = [c.place for c in candidates]
    keys["line"] = [c.row.line for c in candidates]
    keys["bytes"] = [*map(len, lines)]
    keys["source"] = [c.row.source_index for c in candidates]
    keys["split_place"] = [place_of(c.split_digest) for c in candidates]
    keys["changed"] = [c.changed for c in candidates]
    for name in EXTRAS:  # Whether there is a value.
        keys[name] = [getattr(c.row.example, name) is not None for c in candidates]
    return keys


def _texts(candidates: Sequence[Candidate], lines: Sequence[bytes]) -> bytes:
    sink: Any = pa.BufferOutputStream()
    options: Any = ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with ipc.new_file(sink, _SCHEMA, options=options) as writer:
        writer.write_table(_table(candidates, lines))
    return sink.getvalue().to_pybytes()


def _table(candidates: Sequence[Candidate], lines: Sequence[bytes]) -> Any:
    """Columns of rows; lists are built from offsets, which is several times quicker than from objects."""
    rows = [candidate.row for candidate in candidates]
    messages = [row.example.messages for row in rows]
    offsets = np.cumsum([0, *map(len, messages)], dtype=np.int32)
    struct = pa.StructArray.from_arrays(
        [
            pa.array([m.role for conversation in messages for m in conversation], pa.string()),
            pa.array([m.content for conversation in messages for m in conversation], pa.string()),
        ],
        fields=[MESSAGES.value_type.field(0), MESSAGES.value_type.field(1)],
    )
    return pa.table(
        [
            pa.array([row.row_id for row in rows], pa.string()),
            pa.ListArray.from_arrays(pa.array(offsets), struct, type=MESSAGES),
            pa.array([row.example.group for row in rows], pa.string()),
            pa.array([row.source_index for row in rows], pa.int32()),
            pa.array([row.line for row in rows], pa.int64()),
            *(pa.array([getattr(row.example, name) for row in rows], kind) for name, kind in EXTRAS.items()),
            pa.array(lines, pa.large_binary()),
            pa.array([candidate.raw for candidate in candidates], pa.large_binary()),
        ],
        schema=_SCHEMA,
    )
