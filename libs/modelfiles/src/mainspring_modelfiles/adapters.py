"""Low-rank adapters: from a PEFT folder to the GGUF adapter that an engine puts on the same base.

The scale of PEFT is kept exactly: llama.cpp multiplies an adapter by alpha / rank of each matrix, so whatever PEFT does
otherwise (rank-stabilised scaling, patterns of ranks and alphas) is folded into the B matrices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType, GGUFWriter

from mainspring_modelfiles import llama, writing
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.safetensors_file import Weights
from mainspring_modelfiles.sources import read_json
from mainspring_modelfiles.writing import FloatArray, Planned

_WEIGHTS = "adapter_model.safetensors"
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")


def convert(adapter: Path, base: Path, out: Path) -> None:
    """Writes an adapter as GGUF.

    Args:
        adapter: PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`.
        base: Hugging Face folder of the base model; only its `config.json` is read.
        out: File to write.

    Raises:
        Refused: ADAPTER_UNSUPPORTED, ADAPTER_INVALID, or what reading the files raises.
    """
    config = read_json(adapter, "adapter_config.json")
    base_config = read_json(base, "config.json")
    if config is None or base_config is None or not (adapter / _WEIGHTS).is_file():
        message = f"an adapter is adapter_config.json and {_WEIGHTS} beside each other, on a base with config.json"
        raise Refused("ADAPTER_INVALID", message)
    _check_config(config)
    shape = llama.parse_config(base_config)
    alpha = float(config["lora_alpha"])
    weights = Weights((adapter / _WEIGHTS,))
    writer = GGUFWriter(None, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.layers)
    planned: list[Planned] = []
    for module, (a, b) in sorted(_pairs(weights).items()):
        target = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if target is None:
            raise Refused("ADAPTER_UNSUPPORTED", f"the adapter tunes {module}, which the base model does not have")
        rank, columns = weights.shape(a)
        rows = weights.shape(b)[0]
        # A vocabulary has as many rows as it has; no configuration of ours says it.
        expected = llama.weight_shapes(shape, rows).get(f"{module}.weight", (rows, columns))
        if expected != (rows, columns):
            message = f"the adapter tunes {module} of the shape {(rows, columns)}, the base model's is {expected}"
            raise Refused("ADAPTER_INVALID", f"{message}; name the base that it was trained on")
        factor = _scale(config, module, rank) / (alpha / rank)
        heads = llama.heads_to_permute(target, shape)
        planned += [
            Planned(f"{target}.lora_a", weights.shape(a), GGMLQuantizationType.F32, _reader(weights, a)),
            Planned(f"{target}.lora_b", weights.shape(b), GGMLQuantizationType.F32, _reader(weights, b, heads, factor)),
        ]
    writing.write(writer, out, planned)


class Merged:
    """The weights of a base with an adapter's products added, as PEFT's `merge_and_unload` makes them; in float32."""

    def __init__(self, base: llama.TensorSource, adapter: Path) -> None:
        """Reads the adapter's names and scales.

        Raises:
            Refused: ADAPTER_UNSUPPORTED or ADAPTER_INVALID; the base lacks what it tunes, or has it in another shape.
        """
        config = read_json(adapter, "adapter_config.json")
        if config is None or not (adapter / _WEIGHTS).is_file():
            raise Refused("ADAPTER_INVALID", f"an adapter is adapter_config.json and {_WEIGHTS} beside each other")
        _check_config(config)
        self._config, self._base, self._adapter = config, base, Weights((adapter / _WEIGHTS,))
        self._pairs = {f"{module}.weight": (module, *pair) for module, pair in _pairs(self._adapter).items()}
        for name, (module, a, b) in self._pairs.items():
            shape = (self._adapter.shape(b)[0], self._adapter.shape(a)[1])
            if name not in base.names or base.shape(name) != shape:
                message = f"the adapter tunes {module} of the shape {shape}, which the base model does not have"
                raise Refused("ADAPTER_INVALID", f"{message}; name the base that it was trained on")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return self._base.names

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._base.shape(name)

    def read(self, name: str) -> FloatArray:
        """A tensor as float32."""
        values = self._base.read(name)
        if name not in self._pairs:
            return values
        module, a, b = self._pairs[name]
        scale = _scale(self._config, module, self._adapter.shape(a)[0])
        product: FloatArray = self._adapter.read(b) @ self._adapter.read(a)
        return (values + product * scale).astype(values.dtype)


def _reader(weights: Weights, name: str, heads: int = 0, factor: float = 1.0) -> Any:
    def load() -> FloatArray:
        values = weights.read(name)
        values = llama.permuted(values, heads) if heads else values
        return values if factor == 1.0 else (values * factor).astype(values.dtype)

    return load


def _check_config(config: Mapping[str, Any]) -> None:
    unsupported = [key for key in ("use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save") if config.get(key)]
    if config.get("peft_type") != "LORA":
        unsupported.append(f"peft_type {config.get('peft_type')}")
    if config.get("bias", "none") != "none":
        unsupported.append(f"bias {config['bias']}")
    if unsupported:
        message = f"the adapter uses {', '.join(unsupported)}, which the engine cannot serve; train a plain LoRA"
        raise Refused("ADAPTER_UNSUPPORTED", message)
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not isinstance(alpha, int | float) or not alpha > 0 or not isinstance(rank, int) or rank <= 0:
        raise Refused("ADAPTER_INVALID", "adapter_config.json gives no positive r and lora_alpha")


def _pairs(weights: Weights) -> dict[str, tuple[str, str]]:
    """Names of the A and B matrices by the module that they tune."""
    found: dict[str, dict[str, str]] = {}
    for name in weights.names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise Refused("ADAPTER_UNSUPPORTED", f"the adapter holds {name}, which is no A or B matrix of a LoRA")
        found.setdefault(match["module"], {})[match["matrix"]] = name
    pairs: dict[str, tuple[str, str]] = {}
    for module, matrices in found.items():
        if matrices.keys() != {"A", "B"}:
            raise Refused("ADAPTER_INVALID", f"{module} has only one of the two matrices of a LoRA")
        a, b = weights.shape(matrices["A"]), weights.shape(matrices["B"])
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise Refused("ADAPTER_INVALID", f"the matrices of {module} do not fit each other: {a} and {b}")
        pairs[module] = (matrices["A"], matrices["B"])
    if not pairs:
        raise Refused("ADAPTER_INVALID", "the adapter is empty")
    return pairs


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies a module's B·A by."""
    alpha = float(_by_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"]))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    # PEFT's rule: a pattern names the end of a module's path, from a dot on.
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
