"""Foundation models that come as GGUF: what they say about themselves, and the file that is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from mainspring_modelfiles import writing
from mainspring_modelfiles.gguf_file import GgufFile, TensorInfo
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.tokens import SpecialTokens
from mainspring_modelfiles.writing import FloatArray, Planned


def check(model: GgufFile) -> None:
    """Raises `Refused` unless the file is a whole model that can be served as a foundation model."""
    architecture = model.get("general.architecture")
    if architecture != "llama" or model.get("general.type", "model") != "model":
        kind = model.get("general.type", "model")
        message = f"{model.path.name} is a {architecture} {kind}; foundation models are llama models"
        raise Refused("ARCHITECTURE_UNSUPPORTED", message)
    if model.get("split.count", 0) > 1:
        raise Refused("GGUF_SPLIT", f"{model.path.name} is one part of several; join them with llama.cpp's gguf-split")
    if not model.get("tokenizer.ggml.tokens") or "token_embd.weight" not in model.tensors:
        raise Refused("GGUF_INCOMPLETE", f"{model.path.name} has no vocabulary or no embeddings")


def context_tokens(model: GgufFile) -> int:
    """The longest text that the model was trained for, in tokens."""
    value = model.get("llama.context_length", 0)
    if not isinstance(value, int) or value <= 0:
        raise Refused(
            "GGUF_INCOMPLETE", f"{model.path.name} does not say how long a text it takes (llama.context_length)"
        )
    return value


def special_tokens(model: GgufFile) -> SpecialTokens:
    """Texts of the special tokens."""
    texts: list[str] = model.get("tokenizer.ggml.tokens")

    def text(key: str) -> str:
        number: Any = model.get(f"tokenizer.ggml.{key}_token_id")
        return texts[number] if isinstance(number, int) and 0 <= number < len(texts) else ""

    return SpecialTokens(text("bos"), text("eos"), text("padding"), text("unknown"))


def write_for_serving(model: GgufFile, out: Path) -> None:
    """Writes the same model with matrices as Q8_0 and vectors as F32; what is Q8_0 already stays as it is.

    llama.cpp's kernels for Q4_1 are slow; Q8_0 reads the same weights faster and raises SmolLM2's perplexity by 0.8 %.

    Raises:
        Refused: An encoding cannot be decoded.
    """
    writer = GGUFWriter(None, "llama")
    for key, entry in model.metadata.items():
        if key in {"general.architecture", "general.file_type", "general.quantization_version", "general.alignment"}:
            continue
        if entry.type is GGUFValueType.ARRAY and not entry.value:
            continue  # The writer cannot write an empty array, and no key needs one.
        writer.add_key_value(key, entry.value, entry.type, entry.item_type)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writing.write(writer, out, [_planned(model, info) for info in model.tensors.values()])


def _planned(model: GgufFile, info: TensorInfo) -> Planned:
    def load() -> FloatArray:
        return model.read(info)

    kind = writing.serving_type(info.shape)
    if info.name.startswith("rope_"):
        kind = GGMLQuantizationType.F32
    # Decoding Q8_0 and encoding it again gives the same bytes: the largest value of a block is 127 steps.
    return Planned(info.name, info.shape, kind, load)
