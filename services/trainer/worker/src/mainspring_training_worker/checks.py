"""What is watched while a model learns. Pure but for the model that is asked."""

from __future__ import annotations

import math
import random
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mainspring_modelfiles import probe
from mainspring_training_worker.batches import Example
from mainspring_training_worker.encoding import rendered
from mainspring_training_worker.rows import Row
from mainspring_training_worker.spec import Refused

RECENT_STEPS = 8
_SPIKE = 2.0
_VARIANTS = 63
_LONG, _TOO_LONG = 0.05, 0.5
_ROWS_RENDERED = 256
"""Rows that are looked at for what a template does to them."""


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


def cut_signal(cut: int, rows: int, max_tokens: int) -> tuple[str, str] | None:
    """What is odd about rows whose texts are cut where they are too long, as a signal's name and message.

    Raises:
        Refused: DATASET_MISMATCH, most rows are cut.
    """
    message = f"{cut} of {rows} rows have a text of more than {max_tokens} tokens"
    if cut > _TOO_LONG * rows:
        message = f"{message}, of which the end would not be seen; raise max_sequence_tokens as far as the base reads,"
        raise Refused("DATASET_MISMATCH", f"{message} or shorten them")
    return ("TRUNCATION", f"{message} and are cut there") if cut > _LONG * rows else None


def template_signal(tokenizer: Any, rows: Sequence[Row]) -> tuple[str, str] | None:
    """What the base's chat template does not say of the rows as they are, as a signal's name and message: messages that
    it leaves out, texts that stand for its own marks, answers that it does not end.

    Raises:
        Refused: DATASET_MISMATCH, most rows lose a message, or hold a mark; CHAT_TEMPLATE_UNUSABLE, it does not take
            their roles.
    """
    looked_at = [row for row in rows[:_ROWS_RENDERED] if len(row.messages) > 1]
    marks = {str(mark) for mark in tokenizer.all_special_tokens if len(str(mark)) > 1}
    left_out, marked, endless = Counter[str](), 0, 0
    for row in looked_at:
        text = rendered(tokenizer, row.messages)
        left_out.update({m["role"] for m in row.messages if m["content"].strip() not in text})
        marked += any(mark in message["content"] for message in row.messages for mark in marks)
        endless += tokenizer.eos_token not in text[text.rfind(row.messages[-1]["content"].strip()) :]
    of = f"of {len(looked_at)} rows"
    role, lost = left_out.most_common(1)[0] if left_out else ("", 0)
    if 2 * lost > len(looked_at):
        message = f"the base's chat template leaves out what `{role}` says in {lost} {of}; move it to another role or"
        raise Refused("DATASET_MISMATCH", f"{message} choose a base that takes it")
    if 2 * marked > len(looked_at):
        message = f"{marked} {of} hold marks of the base's chat template in their texts: they are rendered already;"
        raise Refused("DATASET_MISMATCH", f"{message} import them as messages")
    said = [
        f"leaves out what `{role}` says in {lost} {of}" if lost else "",
        f"finds its own marks in the texts of {marked} {of}" if marked else "",
        f"does not end {endless} {of} with the model's end token, which is learned all the same" if endless else "",
    ]
    found = "; ".join(part for part in said if part)
    return ("TEMPLATE_MISMATCH", f"the base's chat template {found}") if found else None


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
