"""Tiny random models in the formats that real ones come in, made in milliseconds from a seed.

They say nonsense, but every part of the system that reads, tunes, converts or serves a model takes them for real.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

FloatArray = npt.NDArray[np.float32]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_END, _TURN, _TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_PROSE = """
The mill stands where the river turns. In spring the water is high and the wheel goes round day and night; in summer it
rests, and the miller mends what the winter broke. A sack of corn weighs as much as a child of ten years. Return the
number of sacks, and write their weights into the book. Whoever reads the book later will know which year was good.
"""


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of a tiny Llama, in elements."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 128
    context_tokens: int = 512


def tiny_llama(
    folder: Path, *, seed: int = 0, shape: LlamaShape | None = None, tied: bool = True, endless: bool = False
) -> Path:
    """Makes a random Llama as a Hugging Face folder, with byte-level BPE of 400 tokens and ChatML; returns `folder`.

    An `endless` one never ends an answer by itself when the most probable tokens are taken.
    """
    shape = shape or LlamaShape()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _byte_level_bpe()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab_size()
    numbers = tokenizer.get_vocab()
    ids = {name: numbers[token] for name, token in (("bos", _TURN), ("eos", _TURN_END), ("pad", _END))}
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": _TURN,
            "eos_token": _TURN_END,
            "pad_token": _END,
            "unk_token": _END,
            "model_max_length": shape.context_tokens,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    specials = {f"{name}_token_id": number for name, number in ids.items()}
    _write_json(folder / "generation_config.json", specials)
    _write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.feed_forward,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": shape.context_tokens,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": tied,
            "torch_dtype": "float32",
            **specials,
        },
    )
    _write_readme(folder)
    weights = _llama_weights(shape, vocabulary, seed, tied)
    if endless:
        # Nothing speaks for these tokens, and of hundreds of others something always speaks for one.
        weights["model.embed_tokens.weight" if tied else "lm_head.weight"][list(ids.values())] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def tiny_adapter(
    folder: Path, *, seed: int = 1, rank: int = 8, alpha: float = 16.0, shape: LlamaShape | None = None
) -> Path:
    """Makes a random LoRA for every projection of `tiny_llama`, as PEFT saves it; returns `folder`."""
    shape = shape or LlamaShape()
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    weights: dict[str, FloatArray] = {}
    for layer in range(shape.layers):
        for module, (rows, columns) in _projections(shape).items():
            at = f"base_model.model.model.layers.{layer}.{module}"
            weights[f"{at}.lora_A.weight"] = _normal(random, (rank, columns), columns**-0.5)
            weights[f"{at}.lora_B.weight"] = _normal(random, (rows, rank), 0.1 * rank**-0.5)
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "",
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted(module.rsplit(".", 1)[-1] for module in _projections(shape)),
        },
    )
    return folder


def tiny_bert(folder: Path, *, seed: int = 0, hidden: int = 32, layers: int = 2, context_tokens: int = 64) -> Path:
    """Makes a random embedding model as a sentence-transformers folder: uncased WordPiece, mean pooling; returns
    `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'()-"
    words = sorted({word.strip(".,;").lower() for word in _PROSE.split()})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = list(dict.fromkeys([*specials, *letters, *(f"##{letter}" for letter in letters), *words]))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    _write_json(folder / "tokenizer.json", _word_pieces({token: number for number, token in enumerate(tokens)}))
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    _write_json(
        folder / "config.json",
        {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "vocab_size": len(tokens),
            "hidden_size": hidden,
            "intermediate_size": hidden * 2,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "max_position_embeddings": context_tokens,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
        },
    )
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    _write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": context_tokens, "do_lower_case": False})
    _write_readme(folder)
    save_file(_bert_weights(len(tokens), hidden, layers, context_tokens, seed), folder / "model.safetensors")
    return folder


def _byte_level_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[_END, _TURN, _TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_PROSE], trainer)
    return tokenizer


def _projections(shape: LlamaShape) -> Mapping[str, tuple[int, int]]:
    keys = shape.hidden // shape.heads * shape.kv_heads
    return {
        "self_attn.q_proj": (shape.hidden, shape.hidden),
        "self_attn.k_proj": (keys, shape.hidden),
        "self_attn.v_proj": (keys, shape.hidden),
        "self_attn.o_proj": (shape.hidden, shape.hidden),
        "mlp.gate_proj": (shape.feed_forward, shape.hidden),
        "mlp.up_proj": (shape.feed_forward, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.feed_forward),
    }


def _llama_weights(shape: LlamaShape, vocabulary: int, seed: int, tied: bool) -> dict[str, FloatArray]:
    random = np.random.default_rng(seed)
    # Wide embeddings make some tokens clearly likelier than others, so that comparing distributions means something.
    weights = {"model.embed_tokens.weight": _normal(random, (vocabulary, shape.hidden), 0.3)}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        for module, (rows, columns) in _projections(shape).items():
            weights[f"{at}.{module}.weight"] = _normal(random, (rows, columns), columns**-0.5)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{at}.{norm}.weight"] = 1 + _normal(random, (shape.hidden,), 0.1)
    weights["model.norm.weight"] = 1 + _normal(random, (shape.hidden,), 0.1)
    if not tied:
        weights["lm_head.weight"] = _normal(random, (vocabulary, shape.hidden), 0.3)
    return weights


def _bert_weights(vocabulary: int, hidden: int, layers: int, positions: int, seed: int) -> dict[str, FloatArray]:
    random = np.random.default_rng(seed)
    weights: dict[str, FloatArray] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = _normal(random, (rows, columns), columns**-0.5)
        weights[f"{name}.bias"] = _normal(random, (rows,), 0.1)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = 1 + _normal(random, (hidden,), 0.1)
        weights[f"{name}.bias"] = _normal(random, (hidden,), 0.1)

    for name, rows in (("word", vocabulary), ("position", positions), ("token_type", 2)):
        weights[f"embeddings.{name}_embeddings.weight"] = _normal(random, (rows, hidden), 1.0)
    norm("embeddings.LayerNorm")
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{at}.attention.self.{part}", hidden, hidden)
        linear(f"{at}.attention.output.dense", hidden, hidden)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", hidden * 2, hidden)
        linear(f"{at}.output.dense", hidden, hidden * 2)
        norm(f"{at}.output.LayerNorm")
    linear("pooler.dense", hidden, hidden)
    return weights


def _word_pieces(vocabulary: Mapping[str, int]) -> Mapping[str, Any]:
    specials = [token for token in vocabulary if token.startswith("[") and len(token) > 1]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocabulary[token], "content": token, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for token in specials
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", vocabulary["[SEP]"]],
            "cls": ["[CLS]", vocabulary["[CLS]"]],
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": dict(vocabulary),
        },
    }


def _normal(random: np.random.Generator, shape: tuple[int, ...], deviation: float) -> FloatArray:
    return (random.standard_normal(shape) * deviation).astype(np.float32)


def _write_readme(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\nA random model for tests.\n")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
