"""Formats of compressed weights, and which tensor gets which type.

The bytes are made by llama.cpp's own kernels (`ggml_quantize_chunk`), which the engine's package carries; the mix of
types in a format follows llama.cpp's quantiser (src/llama-quant.cpp), which that package leaves out.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, LlamaFileType

from mainspring_modelfiles import llama, writing
from mainspring_modelfiles.writing import FloatArray

_K_BLOCK = 256


class Format(StrEnum):
    """A mix of types, by its name in llama.cpp."""

    Q8_0 = "Q8_0"
    Q6_K = "Q6_K"
    Q4_K_M = "Q4_K_M"


_FILE_TYPES = {
    Format.Q8_0: LlamaFileType.MOSTLY_Q8_0,
    Format.Q6_K: LlamaFileType.MOSTLY_Q6_K,
    Format.Q4_K_M: LlamaFileType.MOSTLY_Q4_K_M,
}
# What llama.cpp takes for rows that are no whole blocks of a K type.
_FALLBACKS = {
    GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q6_K: GGMLQuantizationType.Q8_0,
}


@dataclass(frozen=True)
class Mix:
    """Which tensor of a model gets which type.

    Attributes:
        format: The format.
        layers: Layers of the model.
        tied: Whether the embeddings are the output matrix too, which is worth more bits.
    """

    format: Format
    layers: int
    tied: bool

    def type_of(self, name: str, shape: tuple[int, ...]) -> GGMLQuantizationType:
        """The type of a tensor by its name in GGUF."""
        served = writing.serving_type(shape)
        if served is not GGMLQuantizationType.Q8_0 or self.format is Format.Q8_0:
            return served
        wanted = GGMLQuantizationType.Q6_K
        if self.format is Format.Q4_K_M and not self._is_worth_more(name):
            wanted = GGMLQuantizationType.Q4_K
        return wanted if shape[-1] % _K_BLOCK == 0 else _FALLBACKS[wanted]

    def _is_worth_more(self, name: str) -> bool:
        """Whether a 4-bit format gives a tensor 6 bits: the output, and values and down projections of some layers."""
        if name == ("token_embd.weight" if self.tied else "output.weight"):
            return True
        if not name.endswith((".attn_v.weight", ".ffn_down.weight")):
            return False
        layer, eighth = int(name.split(".")[1]), self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2


class Kernels:
    """llama.cpp's encoders, from the engine's package."""

    def __init__(self) -> None:
        """Loads them.

        Raises:
            ImportError: The package is not installed; it comes with the extra `quantize`.
        """
        package = importlib.import_module("xllamacpp")
        library = next(Path(str(package.__file__)).parent.glob("xllamacpp*.so"))
        self._chunk: Any = ctypes.CDLL(str(library)).ggml_quantize_chunk
        self._chunk.restype = ctypes.c_size_t
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]

    def encode(self, values: FloatArray, kind: GGMLQuantizationType) -> npt.NDArray[Any]:
        """Values of contiguous rows, encoded; shaped as rows of bytes."""
        if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            return gguf.quantize(values, kind)
        row = values.shape[-1]
        rows = values.size // row
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        out = np.empty((rows, row // block * block_bytes), dtype=np.uint8)
        written = self._chunk(int(kind), values.ctypes.data, out.ctypes.data, 0, rows, row, None)
        assert written == out.size, (kind, written, out.size)
        return out


def encoding(format_: Format, config: llama.LlamaConfig) -> llama.Encoding:
    """How the weights of a model are encoded in a format."""
    mix = Mix(format_, config.layers, config.tied)
    return llama.Encoding(_FILE_TYPES[format_], mix.type_of, Kernels().encode)
