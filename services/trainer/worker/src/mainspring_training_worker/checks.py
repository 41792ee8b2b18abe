"""What is watched while a model learns. Pure but for the model that is asked."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Sequence
from typing import Any

from mainspring_modelfiles import probe
from mainspring_training_worker.batches import Example
from mainspring_training_worker.spec import Refused

RECENT_STEPS = 8
_SPIKE = 2.0
_VARIANTS = 63
_LONG, _TOO_LONG = 0.05, 0.5


def spikes(loss: float, recent: Sequence[float]) -> bool:
    """Whether a step's loss has left what the steps before had: more than twice their mean, and by more than a nat."""
    if len(recent) < RECENT_STEPS:
        return False
    mean = sum(recent) / len(recent)
    return loss > _SPIKE * mean and loss > mean + 1


def rows_signal(too_long: int, examples: Sequence[Example], max_tokens: int) -> tuple[str, str] | None:
    """What is odd about the rows before the first step, as a signal's name and message.

    Raises:
        Refused: DATASET_MISMATCH, most rows are too long, or no answer has any text.
    """
    rows = too_long + len(examples)
    if too_long > _TOO_LONG * rows:
        message = f"{too_long} of {rows} rows have more than {max_tokens} tokens and would be left out; raise"
        raise Refused("DATASET_MISMATCH", f"{message} max_sequence_tokens or shorten them")
    empty = sum(example.targets <= 1 for example in examples)
    if empty == len(examples):
        raise Refused("DATASET_MISMATCH", "no row has an answer of more than the end token; import rows with answers")
    if too_long > _LONG * rows:
        return "TRUNCATION", f"{too_long} of {rows} rows have more than {max_tokens} tokens and are left out"
    if empty:
        return "EMPTY_TARGETS", f"{empty} of {len(examples)} rows have an empty answer"
    return None


def general_text(tokenizer: Any) -> Example:
    """A fixed text of common knowledge; what the loss on it rises by is what has been forgotten."""
    return Example("general", tuple(tokenizer(probe.TEXT)["input_ids"]), 1)


def canary_examples(tokenizer: Any, canary: str, seed: int) -> list[Example]:
    """A canary and variants that differ in its digits, or in its letters when it has none.

    A model that finds the canary likelier than all variants has memorised it (Carlini et al. 2019, arXiv:1802.08232).
    """
    chosen = random.Random(f"{seed} {canary}")  # noqa: S311 - variants, not secrets.
    digits = any(character.isdigit() for character in canary)

    def varied(character: str) -> str:
        if digits:
            return chosen.choice(string.digits) if character.isdigit() else character
        return chosen.choice(string.ascii_lowercase) if character.isalpha() else character

    texts = [canary, *("".join(map(varied, canary)) for _ in range(_VARIANTS))]
    encoded = [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    return [Example(f"canary {at}", tokens, 1) for at, tokens in enumerate(encoded) if len(tokens) > 1]


def exposure(losses: Sequence[float]) -> float:
    """Bits by which the first of some texts stands out of the others; `log2` of their number when it is likeliest."""
    rank = 1 + sum(loss < losses[0] for loss in losses[1:])
    return math.log2(len(losses) / rank)


def overfits(train_loss: float, validation_loss: float, best: float, stale: int) -> bool:
    """Whether held-out rows get worse while those that are learned get better: two validations without a better one,
    and a gap of more than a tenth.
    """
    return stale >= 2 and validation_loss > best and validation_loss - train_loss > 0.1 * validation_loss
