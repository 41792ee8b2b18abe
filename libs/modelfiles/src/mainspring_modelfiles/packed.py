"""Whole-number weights for engines on GPUs: a Hugging Face folder in the format of compressed-tensors.

vLLM, SGLang and transformers read it as it is: `quantization_config` in `config.json` says how. Only weights are
encoded, activations stay in 16 bits (W8A16, W4A16); the embeddings and the output matrix stay as they are too. Packing
is the library's own (`pack-quantized`); which scale a row gets is rounding to nearest, for 4 bits by the scale that
leaves the smallest squared error. Needs torch and compressed-tensors, which are imported when it is used.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mainspring_modelfiles import llama
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.sources import read_json
from mainspring_modelfiles.writing import FloatArray

_SHARD_BYTES_MAX = 2 << 30
# What the kernels of vLLM know, best first by size of the scales.
_GROUP_SIZES = (128, 64, 32)
_PACKED_IN = 32
_SHRINKS = tuple(1 - step / 16 for step in range(7))
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Precision(StrEnum):
    """How many bits a weight has, by the names that people use."""

    INT8 = "INT8"
    INT4 = "INT4"


@dataclass(frozen=True)
class Scheme:
    """How the matrices of one model are encoded.

    Attributes:
        bits: Of a weight.
        group: Weights of a row that share a scale; 0 for the whole row.
    """

    bits: int
    group: int

    def arguments(self) -> dict[str, Any]:
        """What compressed-tensors calls the quantization arguments of weights."""
        grouped = {"strategy": "group", "group_size": self.group} if self.group else {"strategy": "channel"}
        return {"num_bits": self.bits, "type": "int", "symmetric": True, "dynamic": False, **grouped}


def scheme_of(precision: Precision, config: llama.LlamaConfig) -> Scheme:
    """The scheme for a model's sizes: a scale per row for 8 bits, per largest group that divides all rows for 4.

    Raises:
        Refused: WEIGHTS_NOT_PACKABLE, rows are no whole number of packed words.
    """
    widths = (config.hidden, config.heads * config.head_size, config.feed_forward)
    bits = 8 if precision is Precision.INT8 else 4
    if any(width * bits % _PACKED_IN for width in widths):
        message = f"rows of {', '.join(map(str, widths))} weights are no whole number of 32-bit words of {bits} bits"
        raise Refused("WEIGHTS_NOT_PACKABLE", message)
    if precision is Precision.INT8:
        return Scheme(bits, 0)
    return Scheme(bits, next((size for size in _GROUP_SIZES if not any(width % size for width in widths)), 0))


def write_folder(base: Path, weights: llama.TensorSource, precision: Precision, out: Path) -> dict[str, int]:
    """Writes the encoded model as a Hugging Face folder; returns how many tensors have which type.

    Args:
        base: Hugging Face folder whose configuration and tokenizer the result has.
        weights: What is encoded: the base's own weights, or those with an adapter merged in.
        precision: How.
        out: Folder to make.

    Raises:
        Refused: PACKER_NOT_INSTALLED, this interpreter lacks a library; or the files are none that can be encoded.
    """
    raw = read_json(base, "config.json")
    if raw is None:
        raise Refused("SOURCE_UNKNOWN", f"{base.name} has no config.json; name a Hugging Face folder")
    config = llama.parse_config(raw)
    scheme = scheme_of(precision, config)
    names = llama.checked_names(weights, config, llama.vocabulary_rows(weights))
    encoder = _Encoder(scheme, raw)
    out.mkdir(parents=True)
    types: dict[str, int] = {}
    shards = _Shards(out)
    for name in names:
        packed = name.startswith("model.layers.") and len(weights.shape(name)) == 2
        shards.add(encoder.encoded(name, weights.read(name)) if packed else encoder.kept(name, weights.read(name)))
        kind = precision.value if packed else encoder.kept_type
        types[kind] = types.get(kind, 0) + 1
    shards.close()
    for path in base.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in {_INDEX, "config.json"}:
            shutil.copyfile(path, out / path.name)
    described = {**raw, **encoder.configuration()}
    (out / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    return types


class _Encoder:
    """Encodes matrices one by one, by the library."""

    def __init__(self, scheme: Scheme, config: Mapping[str, Any]) -> None:
        self._torch = _library("torch")
        quantization = _library("compressed_tensors.quantization")
        compressors = _library("compressed_tensors.compressors")
        arguments = quantization.QuantizationArgs(**scheme.arguments())
        self._scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
        self._config = quantization.QuantizationConfig(
            config_groups={"group_0": self._scheme},
            format="pack-quantized",
            quantization_status="compressed",
            ignore=["lm_head"],
        )
        self._qparams: Any = importlib.import_module("compressed_tensors.quantization.utils").calculate_qparams
        self._compressor: Any = compressors.PackedQuantizationCompressor
        self._group, self._arguments, self._limit = scheme.group, arguments, 1 << (scheme.bits - 1)
        self._shrinks = _SHRINKS if scheme.bits < 8 else _SHRINKS[:1]
        # Engines compute in 16 bits, and scales have the type that they compute in.
        half = (config.get("dtype") or config.get("torch_dtype")) == "float16"
        self._dtype_name = "float16" if half else "bfloat16"
        self._dtype = getattr(self._torch, self._dtype_name)
        self.kept_type = "F16" if half else "BF16"

    def configuration(self) -> dict[str, Any]:
        """What config.json must say of it."""
        described = self._config.model_dump(mode="json", exclude_none=True)
        return {"dtype": self._dtype_name, "torch_dtype": self._dtype_name, "quantization_config": described}

    def kept(self, name: str, values: FloatArray) -> dict[str, Any]:
        """A tensor in 16 bits."""
        return {name: self._torch.from_numpy(values).to(self._dtype)}

    def encoded(self, name: str, values: FloatArray) -> dict[str, Any]:
        """The tensors that stand for a matrix."""
        weight = self._torch.from_numpy(values)
        made = self._compressor.compress({"weight": weight, "weight_scale": self._scale(weight)}, self._scheme)
        stem = name.removesuffix("weight")
        return {f"{stem}{part}": tensor.contiguous() for part, tensor in made.items()}

    def _scale(self, weight: Any) -> Any:
        """The scale of each group of each row, of those tried the one with the smallest squared error."""
        torch, rows = self._torch, weight.shape[0]
        groups = weight.reshape(rows, -1, self._group or weight.shape[1])
        low, high = groups.amin(-1), groups.amax(-1)
        best: Any = None
        least: Any = None
        for shrink in self._shrinks:
            scale = self._qparams(low * shrink, high * shrink, self._arguments)[0].to(self._dtype)
            step = scale.float().unsqueeze(-1)
            rounded = (groups / step).round_().clamp_(-self._limit, self._limit - 1)
            error = rounded.mul_(step).sub_(groups).square_().sum(-1)
            better = None if least is None else error < least
            best = scale if better is None else torch.where(better, scale, best)
            least = error if better is None else torch.where(better, error, least)
        return best


class _Shards:
    """Safetensors files of a bounded size below a folder, with an index when there are several."""

    def __init__(self, out: Path) -> None:
        self._save: Any = _library("safetensors.torch").save_file
        self._out, self._held, self._bytes = out, dict[str, Any](), 0
        self._of: dict[str, str] = {}
        self._total = 0

    def add(self, tensors: Mapping[str, Any]) -> None:
        """Takes tensors; writes a file when enough have come together."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self._held and self._bytes + size > _SHARD_BYTES_MAX:
            self._write(self._next())
        self._held |= tensors
        self._bytes += size

    def close(self) -> None:
        """Writes what is left, and the index."""
        if not self._of:
            self._write(_WEIGHTS)
            return
        self._write(self._next())
        index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(self._of.items()))}
        (self._out / _INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _next(self) -> str:
        return f"model-{len(set(self._of.values())) + 1:05}.safetensors"

    def _write(self, name: str) -> None:
        self._save(self._held, str(self._out / name), metadata={"format": "pt"})
        self._of |= dict.fromkeys(self._held, name)
        self._total += self._bytes
        self._held, self._bytes = {}, 0


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        message = (
            f"encoding for GPUs needs {err.name}: install 'mainspring-modelfiles[pack]' in the environment that"
            " compresses"
        )
        raise Refused("PACKER_NOT_INSTALLED", message) from err
