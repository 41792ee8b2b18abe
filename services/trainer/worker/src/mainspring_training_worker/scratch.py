"""A model from nothing: a vocabulary learned from the rows, and a Llama of about as many parameters as asked for.

What surrounds the model (chat template, special tokens, longest context) is the base's, so that what serves the base
serves the new model as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mainspring_training_worker.rows import Row
from mainspring_training_worker.spec import Pretraining, Refused

_HEAD = 32
_SHAPE = 64
"""Widths are multiples of it, and a model has one layer for each."""


def make_base(folder: Path, like: Path, tokenizer: Any, rows: Iterable[Row], wanted: Pretraining, seed: int) -> Path:
    """Writes a Hugging Face folder with a fresh tokenizer and random weights; the same input gives the same bytes.

    Args:
        folder: To be made.
        like: Folder of the base.
        tokenizer: The base's.
        rows: What the vocabulary is learned from.
        wanted: How large it shall be.
        seed: Of the weights.

    Raises:
        Refused: PARAMETERS_TOO_FEW.
    """
    fresh = _tokenizer(tokenizer, rows, wanted.vocabulary)
    fresh.save_pretrained(folder)
    described = json.loads((like / "config.json").read_text())
    config: Any = shape(wanted.parameters, len(fresh), int(described.get("max_position_embeddings", 2048)))
    config.bos_token_id, config.eos_token_id = fresh.bos_token_id, fresh.eos_token_id
    config.pad_token_id = fresh.pad_token_id
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def shape(parameters: int, vocabulary: int, context_tokens: int) -> LlamaConfig:
    """The largest Llama with at most so many parameters.

    Raises:
        Refused: PARAMETERS_TOO_FEW, the vocabulary alone has more.
    """
    fitting = [width for width in range(_SHAPE, 8193, _SHAPE) if _count(width, vocabulary) <= parameters]
    if not fitting:
        fewest = _count(_SHAPE, vocabulary)
        message = f"a model with {vocabulary} words has at least {fewest:,} parameters; raise `pretraining.parameters`"
        raise Refused("PARAMETERS_TOO_FEW", f"{message} or lower `pretraining.vocabulary`")
    width = fitting[-1]
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=_inner(width),
        num_hidden_layers=_layers(width),
        num_attention_heads=width // _HEAD,
        num_key_value_heads=width // _HEAD,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=True,
    )


def _layers(width: int) -> int:
    return max(2, width // _SHAPE)


def _inner(width: int) -> int:
    return _SHAPE * round(8 * width / 3 / _SHAPE)


def _count(width: int, vocabulary: int) -> int:
    return width * vocabulary + _layers(width) * (4 * width * width + 3 * width * _inner(width) + 2 * width) + width


def _tokenizer(like: Any, rows: Iterable[Row], vocabulary: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]  # Untyped setter.
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]  # As above.
    special = list(dict.fromkeys(map(str, like.all_special_tokens)))
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((message["content"] for row in rows for message in row.messages), trainer)
    named = {key: value for key, value in like.special_tokens_map.items() if isinstance(value, str)}
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, **named)
    made.chat_template = like.chat_template
    return made
