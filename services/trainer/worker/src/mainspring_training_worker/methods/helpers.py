"""Models that teach or judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from mainspring_training_worker.device import CPU, padded
from mainspring_training_worker.encoding import encode, rendered
from mainspring_training_worker.model import load_base, load_tokenizer, read_adapted
from mainspring_training_worker.rows import Message, Row
from mainspring_training_worker.spec import Helper, Refused

_ANSWERS_AT_ONCE = {"cpu": 16, "cuda": 128}


def load_teacher(helper: Helper, precision: str, tokenizer: Any, device: torch.device) -> Any:
    """A model whose distributions can be compared with those of a model with that tokenizer.

    Raises:
        Refused: TEACHER_UNUSABLE, it splits text into other tokens.
    """
    if load_tokenizer(helper.base_model).get_vocab() != tokenizer.get_vocab():
        message = "the teacher has another vocabulary than the student; learn from its answers (source ANSWERS) instead"
        raise Refused("TEACHER_UNUSABLE", message)
    return load_causal(helper, precision, device)


def load_causal(helper: Helper, precision: str, device: torch.device) -> Any:
    """A model that gives next tokens, with its adapter merged, for asking only."""
    base = load_base(helper.base_model, precision, device=device)
    model: Any = read_adapted(base, helper.adapter).merge_and_unload() if helper.adapter is not None else base
    return model.eval().requires_grad_(requires_grad=False)


def with_answers_of(
    helper: Helper, rows: Sequence[Row], precision: str, max_tokens: int, device: torch.device
) -> Iterator[list[Row]]:
    """The rows with the teacher's most likely answers instead of theirs, some at a time."""
    tokenizer = load_tokenizer(helper.base_model)
    tokenizer.padding_side = "left"
    model = load_causal(helper, precision, device)
    at_once = _ANSWERS_AT_ONCE[device.type]
    ordered = sorted(rows, key=lambda row: (sum(len(m["content"]) for m in row.messages), row.row_id))
    for start in range(0, len(ordered), at_once):
        some = ordered[start : start + at_once]
        prompts = [rendered(tokenizer, row.messages[:-1], prompt=True) for row in some]
        asked = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt").to(device)
        with torch.no_grad():
            made = model.generate(
                **asked, max_new_tokens=max_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        texts: list[str] = tokenizer.batch_decode(made[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        yield [
            replace(row, messages=(*row.messages[:-1], {"role": "assistant", "content": text}))
            for row, text in zip(some, texts, strict=True)
        ]


class RewardModel:
    """A model that gives conversations one number each."""

    def __init__(self, helper: Helper, seed: int, device: torch.device = CPU) -> None:
        """Loads it.

        Raises:
            Refused: REWARD_MODEL_UNUSABLE, it is not the result of METHOD_REWARD_MODEL.
        """
        if helper.adapter is None:
            message = "the reward model is no version made by METHOD_REWARD_MODEL; name one"
            raise Refused("REWARD_MODEL_UNUSABLE", message)
        self._device, self._tokenizer = device, load_tokenizer(helper.base_model)
        torch.manual_seed(seed)  # Its head begins with random numbers, which the adapter's own replace.
        base = load_base(helper.base_model, "fp32", scores=True, device=device)
        base.config.pad_token_id = self._tokenizer.pad_token_id
        try:
            self._model: Any = read_adapted(base, helper.adapter)
        except (ValueError, KeyError, RuntimeError) as err:
            raise Refused("REWARD_MODEL_UNUSABLE", f"the reward model cannot be read: {err}"[:300]) from err

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """One number a conversation, better answers higher."""
        encoded = [encode(self._tokenizer, Row(str(at), tuple(turns))) for at, turns in enumerate(conversations)]
        padding = int(self._tokenizer.pad_token_id)
        tokens, seen = padded([example.tokens for example in encoded], padding, self._device)
        with torch.no_grad():
            return self._model(input_ids=tokens, attention_mask=seen, use_cache=False).logits[:, 0].tolist()
