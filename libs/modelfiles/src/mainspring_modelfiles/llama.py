"""Foundation models of the Llama architecture: from a Hugging Face folder to GGUF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gguf
from gguf import GGMLQuantizationType, GGUFWriter

from mainspring_modelfiles import tokens, writing
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.writing import Encoder, FloatArray, Planned


class TensorSource(Protocol):
    """Named tensors; `safetensors_file.Weights` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        ...

    def read(self, name: str) -> FloatArray:
        """A tensor as float32."""
        ...


@dataclass(frozen=True)
class Encoding:
    """How weights are encoded; the default is how foundation models are served.

    Attributes:
        file_type: What the file says of itself.
        type_of: The type of a tensor by its name in GGUF and its shape.
        encode: Turns values into bytes of a type.
    """

    file_type: gguf.LlamaFileType = gguf.LlamaFileType.MOSTLY_Q8_0
    type_of: Callable[[str, tuple[int, ...]], GGMLQuantizationType] = lambda _, shape: writing.serving_type(shape)
    encode: Encoder = gguf.quantize


_SERVED = Encoding()
EMBEDDINGS = "model.embed_tokens.weight"
"""The embedding matrix, by its name in Hugging Face's files."""


@dataclass(frozen=True)
class LlamaConfig:
    """What `config.json` says about a Llama; sizes in elements."""

    hidden: int
    layers: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    context_tokens: int
    rms_epsilon: float
    rope_theta: float
    tied: bool


def parse_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Reads a `config.json`.

    Raises:
        Refused: ARCHITECTURE_UNSUPPORTED or CONFIG_INVALID.
    """
    architectures = config.get("architectures") or []
    if config.get("model_type") != "llama" or architectures not in ([], ["LlamaForCausalLM"]):
        named = ", ".join(map(str, architectures)) or config.get("model_type") or "none"
        message = f"the architecture {named} cannot be served here; foundation models are LlamaForCausalLM"
        raise Refused("ARCHITECTURE_UNSUPPORTED", message)
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    unusual = [key for key in ("attention_bias", "mlp_bias", "quantization_config") if config.get(key)]
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        unusual.append("rope scaling")
    if config.get("hidden_act", "silu") != "silu":
        unusual.append(f"hidden_act {config['hidden_act']}")
    if unusual:
        raise Refused(
            "ARCHITECTURE_UNSUPPORTED", f"config.json asks for {', '.join(unusual)}, which is not supported here"
        )
    try:
        heads = int(config["num_attention_heads"])
        made = LlamaConfig(
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            feed_forward=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            context_tokens=int(config.get("max_position_embeddings", 2048)),
            rms_epsilon=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as err:
        raise Refused("CONFIG_INVALID", f"config.json is no configuration of a Llama: {err!r}") from err
    sizes = (made.hidden, made.layers, made.feed_forward, made.kv_heads, made.head_size, made.context_tokens)
    if not all(0 < size < 1 << 24 for size in sizes) or made.heads % made.kv_heads or made.head_size % 2:
        raise Refused("CONFIG_INVALID", "config.json gives sizes that fit no Llama")
    return made


def permuted(weight: FloatArray, heads: int) -> FloatArray:
    """The rows of a query or key projection in llama.cpp's order.

    Hugging Face rotates the halves of each head, llama.cpp rotates neighbouring pairs; moving the rows makes both the
    same. `weight` has the projection's outputs as rows: a weight, or the B matrix of an adapter.
    """
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def heads_to_permute(gguf_name: str, config: LlamaConfig) -> int:
    """How many heads the rows of a tensor belong to when they must be permuted; else 0."""
    if ".attn_q." in gguf_name:
        return config.heads
    return config.kv_heads if ".attn_k." in gguf_name else 0


def write_gguf(
    folder: Path,
    weights: TensorSource,
    config: LlamaConfig,
    out: Path,
    *,
    name: str,
    licence: str,
    encoding: Encoding = _SERVED,
) -> None:
    """Writes the model for serving: matrices Q8_0 and vectors F32, or as `encoding` says.

    Raises:
        Refused: A tensor is missing or has the wrong shape, or the tokenizer is not supported.
    """
    writer = GGUFWriter(None, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    rows = vocabulary_rows(weights)
    writer.add_vocab_size(rows)
    writer.add_context_length(config.context_tokens)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_epsilon)
    writer.add_file_type(encoding.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    tensors = _plan(weights, config, rows, encoding)
    tokens.write_byte_level_bpe(writer, folder, rows)
    template = tokens.chat_template(folder)
    if template:
        writer.add_chat_template(template)
    writing.write(writer, out, tensors, encoding.encode)


def _plan(weights: TensorSource, config: LlamaConfig, rows: int, encoding: Encoding) -> list[Planned]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.layers)
    found: list[Planned] = []
    for name in checked_names(weights, config, rows):
        shape = weights.shape(name)
        target = names.get_name(name, try_suffixes=(".weight",))
        assert target is not None, name
        heads = heads_to_permute(target, config)

        def load(name: str = name, heads: int = heads) -> FloatArray:
            values = weights.read(name)
            return permuted(values, heads) if heads else values

        found.append(Planned(target, shape, encoding.type_of(target, shape), load))
    return found


def checked_names(weights: TensorSource, config: LlamaConfig, rows: int) -> list[str]:
    """Names of the tensors that make the model, for a vocabulary of `rows` tokens.

    Raises:
        Refused: WEIGHTS_UNEXPECTED, one is missing, has the wrong shape, or belongs to no Llama.
    """
    expected = weight_shapes(config, rows)
    found: list[str] = []
    for name in weights.names:
        # Old files carry the rotation's frequencies; everybody computes them from the configuration.
        if name.endswith("rotary_emb.inv_freq") or (config.tied and name == "lm_head.weight"):
            continue
        if name not in expected:
            raise Refused("WEIGHTS_UNEXPECTED", f"the weights hold {name}, which no Llama of this configuration has")
        shape = expected.pop(name)
        if weights.shape(name) != shape:
            raise Refused(
                "WEIGHTS_UNEXPECTED", f"{name} has the shape {weights.shape(name)}, config.json needs {shape}"
            )
        found.append(name)
    if expected:
        raise Refused("WEIGHTS_UNEXPECTED", f"the weights lack {min(expected)}")
    return found


def vocabulary_rows(weights: TensorSource) -> int:
    """Rows of the embedding matrix; 0 when there is none."""
    return weights.shape(EMBEDDINGS)[0] if EMBEDDINGS in weights.names else 0


def weight_shapes(config: LlamaConfig, rows: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights by their names in Hugging Face's files, for a vocabulary of `rows` tokens."""
    hidden, queries, keys = config.hidden, config.heads * config.head_size, config.kv_heads * config.head_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDINGS: (rows, hidden), "model.norm.weight": (hidden,)}
    if not config.tied:
        shapes["lm_head.weight"] = (rows, hidden)
    for layer in range(config.layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
            f"{at}.self_attn.q_proj.weight": (queries, hidden),
            f"{at}.self_attn.k_proj.weight": (keys, hidden),
            f"{at}.self_attn.v_proj.weight": (keys, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, queries),
            f"{at}.mlp.gate_proj.weight": (config.feed_forward, hidden),
            f"{at}.mlp.up_proj.weight": (config.feed_forward, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, config.feed_forward),
        }
    return shapes
