"""Writes GGUF files tensor by tensor, so that memory does not grow with the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter

from mainspring_modelfiles.refusal import Refused

FloatArray = npt.NDArray[np.float32]
_Q8_BLOCK = 32


@dataclass(frozen=True)
class Planned:
    """One tensor to write; `shape` is numpy's, `load` gives it as float32."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    load: Callable[[], FloatArray]


def serving_type(shape: Sequence[int]) -> GGMLQuantizationType:
    """How a weight is encoded for serving: matrices Q8_0 (F16 when a row has no whole blocks), vectors F32."""
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    return GGMLQuantizationType.F16 if shape[-1] % _Q8_BLOCK else GGMLQuantizationType.Q8_0


class Encoder(Protocol):
    """Turns values into the bytes of a type."""

    def __call__(self, values: FloatArray, kind: GGMLQuantizationType, /) -> npt.NDArray[Any]:
        """The values of a tensor, encoded."""
        ...


def write(writer: GGUFWriter, out: Path, tensors: Sequence[Planned], encode: Encoder = gguf.quantize) -> None:
    """Writes the writer's metadata and these tensors to `out`, one tensor in memory at a time."""
    for planned in tensors:
        block, block_bytes = gguf.GGML_QUANT_SIZES[planned.type]
        row = planned.shape[-1] // block * block_bytes
        size_bytes = int(np.prod(planned.shape[:-1], dtype=np.int64)) * row
        writer.add_tensor_info(planned.name, planned.shape, np.dtype(np.float32), size_bytes, raw_dtype=planned.type)
    try:
        writer.write_header_to_file(out)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for planned in tensors:
            writer.write_tensor_data(_encoded(planned, encode))
    finally:
        writer.close()


def _encoded(planned: Planned, encode: Encoder) -> npt.NDArray[Any]:
    values = planned.load()
    if not np.isfinite(values).all():
        raise Refused("WEIGHTS_NOT_FINITE", f"{planned.name} holds values that are not finite; the model is damaged")
    return np.ascontiguousarray(encode(np.ascontiguousarray(values), planned.type))
