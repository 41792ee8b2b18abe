"""Embedding models: how they are loaded, how rows become pairs of texts, and the files that they are left in.

A text's vector is the mean of its tokens' last hidden states, of length one: what the engine makes of the files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from mainspring_modelfiles import bert, refusal
from mainspring_modelfiles.safetensors_file import Weights, weight_files
from mainspring_training_worker.batches import Example
from mainspring_training_worker.device import CPU, padded
from mainspring_training_worker.rows import Row
from mainspring_training_worker.spec import Refused

METHOD = "EMBEDDING"
_BESIDE_WEIGHTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def load_tokenizer(folder: Path) -> Any:
    """The model's tokenizer.

    Raises:
        Refused: BASE_MODEL_UNUSABLE, it cannot be read or has no token for padding.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as err:
        raise Refused("BASE_MODEL_UNUSABLE", f"the embedding model's tokenizer cannot be read: {err}"[:500]) from err
    if tokenizer.pad_token_id is None:
        raise Refused("BASE_MODEL_UNUSABLE", "the embedding model's tokenizer has no token for padding; add it")
    return tokenizer


def load_model(folder: Path, device: torch.device = CPU) -> Any:
    """The model in fp32, on a device. Only safetensors are read and no code that comes with a model is run.

    Raises:
        Refused: BASE_MODEL_UNUSABLE, it cannot be read, or the engine could not serve what is made of it.
    """
    try:
        bert.parse_config(folder, json.loads((folder / "config.json").read_text()))
        given: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "attn_implementation": "eager"}
        return AutoModel.from_pretrained(folder, **given).to(device)
    except refusal.Refused as err:
        raise Refused("BASE_MODEL_UNUSABLE", err.message) from err
    except (OSError, ValueError, KeyError) as err:
        message = f"the embedding model cannot be read: {err}; import it again, weights included"
        raise Refused("BASE_MODEL_UNUSABLE", message[:500]) from err


def encode_pairs(tokenizer: Any, rows: Iterable[Row], max_tokens: int) -> tuple[list[Example], int]:
    """Question and answer of each row as texts of their own, and its worse answer, each cut at `max_tokens` tokens; and
    how many rows had a text to be cut.
    """

    def tokens(text: str) -> tuple[tuple[int, ...], bool]:
        """A text's tokens, and whether they were cut."""
        whole = tokenizer(text, verbose=False)["input_ids"]
        if len(whole) <= max_tokens:
            return tuple(whole), False
        return tuple(tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]), True

    examples: list[Example] = []
    cut = 0
    for row in rows:
        texts = ["\n".join(message["content"] for message in row.messages[:-1]), row.messages[-1]["content"]]
        texts += [row.rejected] if row.rejected is not None else []
        encoded = [tokens(text) for text in texts]
        question, answer, *worse = (seen for seen, _ in encoded)
        rejected = worse[0] if worse else ()
        examples.append(Example(row.row_id, (*question, *answer), len(question), rejected, None, row.messages))
        cut += any(is_cut for _, is_cut in encoded)
    return examples, cut


def vectors(model: Any, texts: list[tuple[int, ...]], padding: int) -> Tensor:
    """One vector of length one a text, as rows."""
    tokens, seen = padded(texts, padding, model.device)
    hidden: Tensor = model(input_ids=tokens, attention_mask=seen).last_hidden_state
    weights = seen.unsqueeze(-1).to(hidden.dtype)
    return normalize((hidden * weights).sum(1).float() / weights.sum(1).float(), dim=-1)


def write(base: Path, weights: dict[str, Tensor], output: Path) -> dict[str, Path]:
    """Writes the files of an embedding model's version, as an import leaves them; returns them by role.

    Raises:
        Refused: They cannot be written for this base; the reason is that of mainspring-modelfiles.
    """
    folder, gguf = output / "hf", output / "model.gguf"
    folder.mkdir()
    for name in _BESIDE_WEIGHTS:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
    kept = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    try:
        config = bert.parse_config(folder, json.loads((folder / "config.json").read_text()))
        bert.write_gguf(folder, Weights(weight_files(folder)), config, gguf, name=folder.name, licence="")
    except refusal.Refused as err:
        raise Refused(err.reason, err.message) from err
    return {f"hf/{path.name}": path for path in sorted(folder.iterdir())} | {"gguf": gguf}
