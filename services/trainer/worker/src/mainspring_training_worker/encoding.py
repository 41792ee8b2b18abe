"""Chat messages as tokens, exactly as the serving engine sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import TemplateError

from mainspring_training_worker.batches import Example
from mainspring_training_worker.rows import Message, Row
from mainspring_training_worker.spec import Refused


def rendered(tokenizer: Any, messages: Sequence[Message], *, prompt: bool = False) -> str:
    """Messages as the base's chat template writes them.

    Args:
        tokenizer: The base's.
        messages: What is said.
        prompt: Whether the beginning of an answer follows.

    Raises:
        Refused: CHAT_TEMPLATE_UNUSABLE, the template does not take these messages.
    """
    try:
        return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=prompt, tokenize=False))
    except TemplateError as err:
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
        message = f"the base model's chat template does not take messages of the roles {roles}: {err}; choose another"
        raise Refused("CHAT_TEMPLATE_UNUSABLE", f"{message} base or change the rows"[:500]) from err


def encode(tokenizer: Any, row: Row) -> Example:
    """The row's prompt and answer, and its worse answer.

    All are tokenised by themselves, as they are when a model answers: the prompt ends where generation begins, and the
    answer ends with the end token, without what the template writes after it.

    Raises:
        Refused: CHAT_TEMPLATE_UNUSABLE, the template does not render the answer right after the prompt.
    """
    prompt = rendered(tokenizer, row.messages[:-1], prompt=True)
    head: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tail = _answer(tokenizer, prompt, list(row.messages))
    rejected: list[int] = []
    if row.rejected is not None:
        worse = {"role": "assistant", "content": row.rejected}
        rejected = _answer(tokenizer, prompt, [*row.messages[:-1], worse])
    return Example(row.row_id, (*head, *tail), len(head), tuple(rejected), row.desirable, row.messages)


def _answer(tokenizer: Any, prompt: str, messages: list[Message]) -> list[int]:
    """The last message's tokens with the end token."""
    whole = rendered(tokenizer, messages)
    if not whole.startswith(prompt):
        message = "the base model's chat template does not render an answer right after its prompt; mend the template"
        raise Refused("CHAT_TEMPLATE_UNUSABLE", message)
    answer = whole[len(prompt) :].rstrip()
    end: str = tokenizer.eos_token
    answer = answer[: answer.rfind(end)] if end in answer else answer
    tokens: list[int] = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*tokens, int(tokenizer.eos_token_id)]


def encode_text(tokenizer: Any, row: Row, max_tokens: int) -> list[Example]:
    """Everything that the row says, in pieces of at most `max_tokens` tokens; each piece but the last is full.

    A row with a prompt is rendered as the template does it; one without is a document of a plain corpus.
    """
    plain = len(row.messages) == 1
    text = row.messages[0]["content"] if plain else rendered(tokenizer, row.messages)
    tokens: list[int] = [*tokenizer(text, add_special_tokens=False)["input_ids"], int(tokenizer.eos_token_id)]
    pieces = [tuple(tokens[at : at + max_tokens]) for at in range(0, len(tokens), max_tokens)]
    # A piece's first token has nothing before it to be told from.
    return [Example(f"{row.row_id}-{number}", piece, 1) for number, piece in enumerate(pieces) if len(piece) > 1]


def encode_all(tokenizer: Any, rows: Iterable[Row], max_tokens: int, *, corpus: bool) -> tuple[list[Example], int]:
    """Examples of at most `max_tokens` tokens, and how many rows were longer.

    Args:
        tokenizer: The model's.
        rows: What to encode.
        max_tokens: Longer rows are left out; those of a corpus are cut.
        corpus: Whether everything is learned, instead of answers only.
    """
    if corpus:
        return [piece for row in rows for piece in encode_text(tokenizer, row, max_tokens)], 0
    examples = [encode(tokenizer, row) for row in rows]
    kept = [example for example in examples if example.width <= max_tokens]
    return kept, len(examples) - len(kept)
