"""What the tiny models should say, computed by the textbook in numpy: the yardstick for conversions and engines.

Written from the papers and from nothing else, so that a mistake in a converter is not repeated here: Llama with rotary
positions and grouped queries (Touvron et al. 2023), LoRA (Hu et al. 2021), BERT (Devlin et al. 2018).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Array = npt.NDArray[np.float64]


def next_token_logprobs(folder: Path, tokens: Sequence[int], adapter: Path | None = None) -> Array:
    """Natural log-probabilities of every token after `tokens`, of a `tiny_llama`, with a `tiny_adapter` or without."""
    config = json.loads((folder / "config.json").read_bytes())
    weights = _with_adapter(_load(folder / "model.safetensors"), adapter)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    epsilon, theta = config["rms_norm_eps"], config["rope_theta"]
    x = weights["model.embed_tokens.weight"][list(tokens)]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"

        def linear(name: str, values: Array, at: str = at) -> Array:
            return values @ weights[f"{at}.{name}.weight"].T

        h = _rms_norm(x, weights[f"{at}.input_layernorm.weight"], epsilon)
        q = _rotated(_heads(linear("self_attn.q_proj", h), heads), theta)
        k = _rotated(_heads(linear("self_attn.k_proj", h), kv_heads), theta)
        v = _heads(linear("self_attn.v_proj", h), kv_heads)
        k, v = (np.repeat(part, heads // kv_heads, axis=0) for part in (k, v))
        x = x + linear("self_attn.o_proj", _attention(q, k, v, causal=True))
        h = _rms_norm(x, weights[f"{at}.post_attention_layernorm.weight"], epsilon)
        gate = linear("mlp.gate_proj", h)
        x = x + linear("mlp.down_proj", gate / (1 + np.exp(-gate)) * linear("mlp.up_proj", h))
    last = _rms_norm(x[-1], weights["model.norm.weight"], epsilon)
    logits = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]) @ last
    return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())


def embedding(folder: Path, tokens: Sequence[int]) -> Array:
    """The unit vector of a text, of a `tiny_bert`: the mean over all its tokens, [CLS] and [SEP] included."""
    config = json.loads((folder / "config.json").read_bytes())
    weights = _load(folder / "model.safetensors")
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]

    def norm(name: str, values: Array) -> Array:
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(name: str, values: Array) -> Array:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][list(tokens)]
    x = x + weights["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0])
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        q, k, v = (_heads(linear(f"{at}.attention.self.{part}", x), heads) for part in ("query", "key", "value"))
        attended = linear(f"{at}.attention.output.dense", _attention(q, k, v, causal=False))
        x = norm(f"{at}.attention.output.LayerNorm", x + attended)
        h = linear(f"{at}.intermediate.dense", x)
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        x = norm(f"{at}.output.LayerNorm", x + linear(f"{at}.output.dense", h))
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def _load(path: Path) -> dict[str, Array]:
    return {name: values.astype(np.float64) for name, values in load_file(path).items()}


def _with_adapter(weights: dict[str, Array], adapter: Path | None) -> dict[str, Array]:
    """W + alpha / r · B · A for every projection that the adapter tunes."""
    if adapter is None:
        return weights
    config: Any = json.loads((adapter / "adapter_config.json").read_bytes())
    low_rank = _load(adapter / "adapter_model.safetensors")
    for name, a in low_rank.items():
        if name.endswith(".lora_A.weight"):
            b = low_rank[name.replace("lora_A", "lora_B")]
            target = name.removeprefix("base_model.model.").replace(".lora_A", "")
            weights[target] = weights[target] + config["lora_alpha"] / config["r"] * b @ a
    return weights


def _rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


def _heads(x: Array, heads: int) -> Array:
    """[tokens, heads * size] -> [heads, tokens, size]."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def _rotated(x: Array, theta: float) -> Array:
    """Rotary positions as Hugging Face lays weights out: element i turns with element i + size / 2."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _attention(q: Array, k: Array, v: Array, *, causal: bool) -> Array:
    """[heads, tokens, size] each -> [tokens, heads * size]."""
    scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed: Array = (scores / scores.sum(-1, keepdims=True)) @ v
    return mixed.swapaxes(0, 1).reshape(mixed.shape[1], -1)
