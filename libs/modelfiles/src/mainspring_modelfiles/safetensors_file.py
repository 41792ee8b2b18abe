"""Reads safetensors files: the header is checked in full before a byte of a tensor is touched.

The reader is our own because numpy has no bfloat16, and because a hostile header must cost neither time nor memory
(https://github.com/huggingface/safetensors describes the format).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.sources import file_in

FloatArray = npt.NDArray[np.float32]

_HEADER_BYTES_MAX = 25 << 20
_DIMENSIONS_MAX = 8
_DTYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor stands in its file; `start` counts from the beginning of the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int


class SafetensorsFile:
    """One checked file. Tensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Reads and checks the header.

        Raises:
            Refused: SAFETENSORS_INVALID, the message names the broken rule.
        """
        self.path = path
        self.tensors = _read_header(path)

    def read(self, name: str) -> FloatArray:
        """A floating-point tensor as float32, a copy.

        Raises:
            KeyError: There is none of that name.
            Refused: TENSOR_TYPE_UNSUPPORTED, it holds no floating-point numbers.
        """
        info = self.tensors[name]
        if info.dtype in {"I64", "I32"}:
            raise Refused(
                "TENSOR_TYPE_UNSUPPORTED", f"{self.path.name}: {name} is {info.dtype}; weights are F32, F16 or BF16"
            )
        raw: npt.NDArray[Any] = np.memmap(
            self.path, dtype=_DTYPES[info.dtype], mode="r", offset=info.start, shape=info.shape
        )
        if info.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)


def _read_header(path: Path) -> dict[str, TensorInfo]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise _broken(path, "is shorter than its 8-byte length field")
        length = int.from_bytes(prefix, "little")
        if length > _HEADER_BYTES_MAX or 8 + length > size:
            raise _broken(
                path, f"says that its header has {length} bytes, which is more than the file or the limit allows"
            )
        text = file.read(length)
    try:
        # A key given twice would be read differently by different readers.
        header = json.loads(text, object_pairs_hook=_unique)
    except _DuplicateKey as err:
        raise _broken(path, f"names {err.args[0]!r} twice") from err
    except (ValueError, RecursionError) as err:
        raise _broken(path, "has a header that is not JSON") from err
    if not isinstance(header, dict):
        raise _broken(path, "has a header that is not a JSON object")
    entries: dict[str, Any] = header
    entries.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, 8 + length, size) for name, entry in entries.items()}
    end = 8 + length
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size_bytes)):
        if info.start != end:
            raise _broken(path, f"has a gap or an overlap before {name!r}")
        end = info.start + info.size_bytes
    if end != size:
        raise _broken(path, f"has {size - end} bytes that belong to no tensor")
    return tensors


def _tensor(path: Path, name: str, entry: Any, data_start: int, file_bytes: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"describes {name!r} by other fields than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _DTYPES:
        raise Refused("TENSOR_TYPE_UNSUPPORTED", f"{path.name}: {name} is {dtype}; weights are F32, F16 or BF16")
    if not _counts(shape) or len(shape) > _DIMENSIONS_MAX or not _counts(offsets) or len(offsets) != 2:
        raise _broken(path, f"gives {name!r} a shape or offsets that are not counts")
    start, end = offsets
    if end < start or data_start + end > file_bytes:
        raise _broken(path, f"puts {name!r} outside the file")
    if prod(shape) * _ITEM_BYTES[dtype] != end - start:
        raise _broken(path, f"gives {name!r} {end - start} bytes, which its shape and type do not need")
    return TensorInfo(dtype, tuple(shape), data_start + start, end - start)


def _counts(value: Any) -> bool:
    # bool is an int to Python, but not to the format.
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


class _DuplicateKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateKey(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return made


def _broken(path: Path, what: str) -> Refused:
    return Refused("SAFETENSORS_INVALID", f"{path.name} {what}; save the model again with safetensors")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The weights of a Hugging Face folder: one file, or the shards that its index names.

    Raises:
        Refused: WEIGHTS_MISSING, WEIGHTS_INDEX_INVALID, or as `sources.file_in`.
    """
    single, index = file_in(folder, "model.safetensors"), folder / "model.safetensors.index.json"
    if single is not None:
        return (single,)
    if not index.is_file():
        raise Refused("WEIGHTS_MISSING", f"{folder.name} has no model.safetensors; only safetensors and GGUF come in")
    try:
        names: Any = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise Refused("WEIGHTS_INDEX_INVALID", f"{index.name} is not an index of safetensors files") from err
    shards: list[Path] = []
    for name in sorted(map(str, names)):
        path = file_in(folder, name) if re.fullmatch(r"[\w.-]+\.safetensors", name) else None
        if path is None:
            raise Refused("WEIGHTS_INDEX_INVALID", f"{index.name} names {name!r}, which is no weights file beside it")
        shards.append(path)
    return tuple(shards)


class Weights:
    """All tensors of a model, from one file or several."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        """Checks every file.

        Raises:
            Refused: As `SafetensorsFile`; a tensor is in two files.
        """
        self._of: dict[str, SafetensorsFile] = {}
        for path in files:
            file = SafetensorsFile(path)
            for name in file.tensors:
                if name in self._of:
                    raise Refused("SAFETENSORS_INVALID", f"{path.name} holds {name!r}, which another file holds too")
                self._of[name] = file

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted(self._of))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._of[name].tensors[name].shape

    def read(self, name: str) -> FloatArray:
        """A tensor as float32; as `SafetensorsFile.read`."""
        return self._of[name].read(name)
