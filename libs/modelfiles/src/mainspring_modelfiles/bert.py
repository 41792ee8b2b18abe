"""Embedding models of the BERT architecture with mean pooling: from a sentence-transformers folder to GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

from mainspring_modelfiles import tokens, writing
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.safetensors_file import Weights
from mainspring_modelfiles.sources import read_json
from mainspring_modelfiles.writing import FloatArray, Planned

# How llama.cpp marks the beginning of a word; WordPiece marks what continues one.
_WORD = "\u2581"
_SPECIALS = ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]")


@dataclass(frozen=True)
class BertConfig:
    """What a folder says about an embedding model; sizes in elements."""

    hidden: int
    layers: int
    feed_forward: int
    heads: int
    context_tokens: int
    positions: int
    norm_epsilon: float
    token_types: int


def parse_config(folder: Path, config: Mapping[str, Any]) -> BertConfig:
    """Reads `config.json` and what sentence-transformers adds to it.

    Raises:
        Refused: ARCHITECTURE_UNSUPPORTED, POOLING_UNSUPPORTED or CONFIG_INVALID.
    """
    absolute = config.get("position_embedding_type", "absolute") == "absolute"
    if config.get("model_type") != "bert" or config.get("hidden_act", "gelu") != "gelu" or not absolute:
        message = (
            f"the architecture {config.get('model_type')} cannot be served here; embedding models are BERT with gelu"
        )
        raise Refused("ARCHITECTURE_UNSUPPORTED", message)
    _check_pooling(folder)
    limit = (read_json(folder, "sentence_bert_config.json") or {}).get("max_seq_length")
    try:
        positions = int(config["max_position_embeddings"])
        made = BertConfig(
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            feed_forward=int(config["intermediate_size"]),
            heads=int(config["num_attention_heads"]),
            context_tokens=min(positions, int(limit or positions)),
            positions=positions,
            norm_epsilon=float(config["layer_norm_eps"]),
            token_types=int(config.get("type_vocab_size", 2)),
        )
    except (KeyError, TypeError, ValueError) as err:
        raise Refused("CONFIG_INVALID", f"config.json is no configuration of a BERT: {err!r}") from err
    sizes = (made.hidden, made.layers, made.feed_forward, made.heads, made.context_tokens, made.token_types)
    if not all(0 < size < 1 << 24 for size in sizes) or made.hidden % made.heads:
        raise Refused("CONFIG_INVALID", "config.json gives sizes that fit no BERT")
    return made


def _check_pooling(folder: Path) -> None:
    pooling = read_json(folder, "1_Pooling/config.json")
    if pooling is None:
        return  # A plain BERT folder: mean pooling is what the embedder promises.
    modes = {key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True}
    if modes - {"pooling_mode_mean_tokens"} or pooling.get("pooling_mode", "mean") != "mean":
        raise Refused("POOLING_UNSUPPORTED", "the model pools otherwise than by the mean; choose one with mean pooling")
    dense = [p.name for p in folder.iterdir() if p.is_dir() and "Dense" in p.name]
    if dense:
        raise Refused(
            "POOLING_UNSUPPORTED", f"the model has another layer after pooling ({dense[0]}); choose one without"
        )


def write_gguf(folder: Path, weights: Weights, config: BertConfig, out: Path, *, name: str, licence: str) -> None:
    """Writes the model for serving: matrices F16, the rest F32, mean pooling.

    Raises:
        Refused: A tensor is missing, or the tokenizer is not supported.
    """
    writer = GGUFWriter(None, "bert")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    writer.add_context_length(config.positions)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_head_count(config.heads)
    writer.add_layer_norm_eps(config.norm_epsilon)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _write_word_pieces(writer, folder, config)
    writing.write(writer, out, _plan(weights, config))


def _write_word_pieces(writer: GGUFWriter, folder: Path, config: BertConfig) -> None:
    _, described = tokens.load_tokenizer(folder)
    model, normalizer = described.get("model") or {}, described.get("normalizer") or {}
    # llama.cpp always lowers and strips accents, as the uncased models do.
    uncased = normalizer.get("type") == "BertNormalizer" and normalizer.get("lowercase")
    vocabulary: Mapping[str, int] = model.get("vocab") or {}
    if model.get("type") != "WordPiece" or model.get("continuing_subword_prefix") != "##" or not uncased:
        raise Refused("TOKENIZER_UNSUPPORTED", "the tokenizer is not an uncased WordPiece one; choose another model")
    by_id = sorted(vocabulary, key=lambda token: vocabulary[token])
    missing = [token for token in _SPECIALS[:4] if token not in vocabulary]
    if missing or [vocabulary[t] for t in by_id] != list(range(len(by_id))):
        raise Refused("TOKENIZER_UNSUPPORTED", "the vocabulary has gaps or lacks [CLS], [SEP], [UNK] or [PAD]")
    writer.add_tokenizer_model("bert")
    writer.add_token_list([_piece(token) for token in by_id])
    writer.add_token_types([TokenType.CONTROL if _special(t) else TokenType.NORMAL for t in by_id])
    writer.add_token_type_count(config.token_types)
    writer.add_bos_token_id(vocabulary["[CLS]"])
    writer.add_eos_token_id(vocabulary["[SEP]"])
    writer.add_sep_token_id(vocabulary["[SEP]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_pad_token_id(vocabulary["[PAD]"])
    if "[MASK]" in vocabulary:
        writer.add_mask_token_id(vocabulary["[MASK]"])


def _special(token: str) -> bool:
    return len(token) > 2 and token.startswith("[") and token.endswith("]")


def _piece(token: str) -> str:
    if _special(token):
        return token
    return token[2:] if token.startswith("##") else _WORD + token


def _plan(weights: Weights, config: BertConfig) -> list[Planned]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config.layers)
    planned: list[Planned] = []
    for name in weights.names:
        plain = name.removeprefix("bert.")
        # The pooler and the heads of pre-training are not part of mean pooling.
        if plain.startswith(("pooler.", "cls.")) or plain.endswith("position_ids"):
            continue
        target = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise Refused("WEIGHTS_UNEXPECTED", f"the weights hold {name}, which no BERT has")
        shape = weights.shape(name)
        small = len(shape) < 2 or target.startswith(("position_embd", "token_types"))
        kind = GGMLQuantizationType.F32 if small else GGMLQuantizationType.F16

        def load(name: str = name) -> FloatArray:
            return weights.read(name)

        planned.append(Planned(target, shape, kind, load))
    # 16 tensors a layer; word, position and type embeddings, and their norm.
    if len(planned) != 16 * config.layers + 5:
        raise Refused("WEIGHTS_UNEXPECTED", f"the weights hold {len(planned)} tensors, a BERT of this size has others")
    return planned
