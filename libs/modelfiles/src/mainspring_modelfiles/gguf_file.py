"""Reads GGUF files: the header is checked in full before anything else is done with it.

The reader is our own because a hostile header must cost neither time nor memory
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md describes the format).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFValueType

from mainspring_modelfiles.refusal import Refused

FloatArray = npt.NDArray[np.float32]

_KEYS_MAX = 10_000
_TENSORS_MAX = 100_000
_STRING_BYTES_MAX = 16 << 20
_ARRAY_ITEMS_MAX = 4_000_000
_DIMENSIONS_MAX = 4
_FORMATS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
    GGUFValueType.BOOL: "?",
}


@dataclass(frozen=True)
class Value:
    """One metadata value with its type; `item_type` is set for arrays."""

    value: Any
    type: GGUFValueType
    item_type: GGUFValueType | None = None


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor stands in its file; `shape` is numpy's (rows first), `start` counts from the file's beginning."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    size_bytes: int


class GgufFile:
    """One checked file. Tensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Reads and checks the header.

        Raises:
            Refused: GGUF_INVALID, the message names the broken rule.
        """
        self.path = path
        with path.open("rb") as file:
            cursor = _Cursor(path, file)
            self.metadata = _read_metadata(cursor)
            self.tensors = _read_tensors(cursor, self.metadata)

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value, or `default`."""
        found = self.metadata.get(key)
        return default if found is None else found.value

    def raw(self, info: TensorInfo) -> npt.NDArray[np.uint8]:
        """A tensor's bytes as they stand in the file, rows first."""
        rows = info.shape[:-1] if info.shape else ()
        shape = (*rows, info.size_bytes // max(1, prod(rows)))
        return np.memmap(self.path, dtype=np.uint8, mode="r", offset=info.start, shape=shape)

    def read(self, info: TensorInfo) -> FloatArray:
        """A tensor as float32.

        Raises:
            Refused: TENSOR_TYPE_UNSUPPORTED, its encoding cannot be decoded.
        """
        raw = self.raw(info)
        try:
            if info.type in {GGMLQuantizationType.F32, GGMLQuantizationType.F16}:
                dtype = np.float32 if info.type is GGMLQuantizationType.F32 else np.float16
                return np.ascontiguousarray(raw).view(dtype).reshape(info.shape).astype(np.float32)
            return gguf.dequantize(raw, info.type).reshape(info.shape).astype(np.float32, copy=False)
        except NotImplementedError as err:
            message = (
                f"{self.path.name}: {info.name} is {info.type.name}, which cannot be decoded here; use Q8_0 or F16"
            )
            raise Refused("TENSOR_TYPE_UNSUPPORTED", message) from err


class _Cursor:
    """Walks over the header and never past the end of the file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file, self.offset = path, file, 0
        self.size = path.stat().st_size

    def take(self, count: int) -> bytes:
        if count > self.size - self.offset:
            raise self.broken("ends in the middle of its header")
        self.offset += count
        return self._file.read(count)

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self) -> str:
        length = self.number("Q")
        if length > _STRING_BYTES_MAX:
            raise self.broken(f"has a text of {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as err:
            raise self.broken("has a text that is not UTF-8") from err

    def broken(self, what: str) -> Refused:
        return Refused("GGUF_INVALID", f"{self.path.name} {what}; convert the model again")


def _read_metadata(cursor: _Cursor) -> dict[str, Value]:
    if cursor.size < 24 or cursor.take(4) != b"GGUF":
        raise cursor.broken("is not a GGUF file")
    version = cursor.number("I")
    if version not in {2, 3}:
        raise cursor.broken(f"has the unknown version {version}")
    tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
    if tensor_count > _TENSORS_MAX or key_count > _KEYS_MAX:
        raise cursor.broken(f"says that it has {tensor_count} tensors and {key_count} keys, more than any model has")
    metadata: dict[str, Value] = {"GGUF.tensor_count": Value(tensor_count, GGUFValueType.UINT64)}
    for _ in range(key_count):
        key = cursor.text()
        if key in metadata:
            raise cursor.broken(f"has the key {key!r} twice")
        metadata[key] = _read_value(cursor, _value_type(cursor))
    return metadata


def _value_type(cursor: _Cursor) -> GGUFValueType:
    number = cursor.number("I")
    try:
        return GGUFValueType(number)
    except ValueError as err:
        raise cursor.broken(f"has a value of the unknown type {number}") from err


def _read_value(cursor: _Cursor, kind: GGUFValueType) -> Value:
    if kind is GGUFValueType.STRING:
        return Value(cursor.text(), kind)
    if kind is not GGUFValueType.ARRAY:
        return Value(cursor.number(_FORMATS[kind]), kind)
    item, count = _value_type(cursor), cursor.number("Q")
    if item is GGUFValueType.ARRAY or count > _ARRAY_ITEMS_MAX:
        raise cursor.broken(f"has an array of {count} items, or of arrays")
    if item is GGUFValueType.STRING:
        return Value([cursor.text() for _ in range(count)], kind, item)
    form = f"<{count}{_FORMATS[item]}"
    return Value(list(struct.unpack(form, cursor.take(struct.calcsize(form)))), kind, item)


def _read_tensors(cursor: _Cursor, metadata: dict[str, Value]) -> dict[str, TensorInfo]:
    count: int = metadata.pop("GGUF.tensor_count").value
    alignment = metadata["general.alignment"].value if "general.alignment" in metadata else gguf.GGUF_DEFAULT_ALIGNMENT
    if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
        raise cursor.broken(f"wants an alignment of {alignment!r}")
    found = [_read_tensor(cursor) for _ in range(count)]
    data_start = (cursor.offset + alignment - 1) // alignment * alignment
    tensors: dict[str, TensorInfo] = {}
    end = data_start
    for info in sorted(found, key=lambda info: info.start):
        placed = TensorInfo(info.name, info.type, info.shape, data_start + info.start, info.size_bytes)
        if placed.name in tensors:
            raise cursor.broken(f"has the tensor {placed.name!r} twice")
        if placed.start % alignment or placed.start < end:
            raise cursor.broken(f"has {placed.name!r} overlap another tensor, or not aligned")
        if placed.start + placed.size_bytes > cursor.size:
            raise cursor.broken(f"ends before {placed.name!r} does")
        tensors[placed.name] = placed
        end = placed.start + placed.size_bytes
    return {info.name: tensors[info.name] for info in found}


def _read_tensor(cursor: _Cursor) -> TensorInfo:
    name, dimensions = cursor.text(), cursor.number("I")
    if not 1 <= dimensions <= _DIMENSIONS_MAX:
        raise cursor.broken(f"gives {name!r} {dimensions} dimensions")
    # GGUF counts dimensions from the fastest, numpy from the slowest.
    shape = tuple(reversed([int(cursor.number("Q")) for _ in range(dimensions)]))
    number, start = cursor.number("I"), cursor.number("Q")
    try:
        kind = GGMLQuantizationType(number)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError) as err:
        raise cursor.broken(f"encodes {name!r} in the unknown way {number}") from err
    if prod(shape) > 1 << 40 or not all(shape) or shape[-1] % block:
        raise cursor.broken(f"gives {name!r} the impossible shape {shape}")
    return TensorInfo(name, kind, shape, start, prod(shape) // block * block_bytes)
