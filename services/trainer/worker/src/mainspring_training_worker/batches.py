"""Which examples a step learns from, and how they go through the model. Pure.

A step's rows are drawn at random and then sorted by length and cut into micro-batches of similar length. Grouping
inside a step changes nothing but the padding: the gradient is exactly that of the step's rows, where grouping across
steps would make long rows meet only long rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mainspring_training_worker.rows import Message, order_key


@dataclass(frozen=True)
class Example:
    """One row as tokens.

    Attributes:
        row_id: Names it.
        tokens: Prompt and answer.
        answer_start: Tokens from here on are to be learned.
        rejected: Tokens of a worse answer; empty when there is none.
        desirable: Whether the answer is a good one, or None when nobody said.
        messages: The conversation as text, for methods that let the model answer.
    """

    row_id: str
    tokens: tuple[int, ...]
    answer_start: int
    rejected: tuple[int, ...] = ()
    desirable: bool | None = None
    messages: tuple[Message, ...] = ()

    @property
    def prompt(self) -> tuple[int, ...]:
        """What the answer answers."""
        return self.tokens[: self.answer_start]

    @property
    def answer(self) -> tuple[int, ...]:
        """What is to be learned, or, when it is not desirable, to be avoided."""
        return self.tokens[self.answer_start :]

    @property
    def width(self) -> int:
        """Tokens of the longer of its sequences."""
        return max(len(self.tokens), self.answer_start + len(self.rejected))

    @property
    def size(self) -> int:
        """Tokens of all its sequences."""
        return len(self.tokens) + (self.answer_start + len(self.rejected) if self.rejected else 0)

    @property
    def targets(self) -> int:
        """Tokens that count in the loss."""
        return len(self.tokens) - self.answer_start


@dataclass(frozen=True)
class Plan:
    """The whole run, step by step.

    Attributes:
        order: Examples in the order in which they are learned, over all epochs.
        batch_rows: Examples a step.
        epoch_rows: Examples in a whole epoch.
        steps: Steps in all.
        validate_every_steps: Steps between validations.
    """

    order: tuple[Example, ...]
    batch_rows: int
    epoch_rows: int
    steps: int
    validate_every_steps: int

    @classmethod
    def make(
        cls,
        examples: Sequence[Example],
        *,
        epochs: float,
        batch_rows: int,
        max_steps: int,
        validate_every_steps: int,
        seed: int,
    ) -> Plan:
        """Shuffles each epoch by a stable hash; a part of an epoch takes the first part of its order."""
        order: list[Example] = []
        for epoch in range(math.ceil(epochs)):
            share = min(1.0, epochs - epoch)
            shuffled = sorted(examples, key=lambda e, salt=f"{seed} {epoch}": order_key(salt, e.row_id))
            order += shuffled[: max(1, round(share * len(shuffled)))]
        steps = math.ceil(len(order) / batch_rows)
        if max_steps:
            steps = min(steps, max_steps)
        return cls(
            tuple(order), batch_rows, len(examples), steps, validate_every_steps or max(1, math.ceil(steps / 10))
        )

    def step_examples(self, step: int) -> tuple[Example, ...]:
        """What step number `step`, from 0, learns from."""
        return self.order[step * self.batch_rows : (step + 1) * self.batch_rows]

    def validates_at(self, step: int) -> bool:
        """Whether the model is validated when `step` steps are done: before the first, on schedule, and at the end."""
        return step % self.validate_every_steps == 0 or step == self.steps


def micro_batches(
    examples: Sequence[Example], max_tokens: int, *, at_least: int = 1, drawn_tokens: int = 0
) -> Iterator[list[Example]]:
    """Groups of similar length.

    Args:
        examples: What is grouped.
        max_tokens: Most padded tokens of a group.
        at_least: Fewest examples of one, which goes before that.
        drawn_tokens: Longest answer that may be drawn in the place of an example's own.
    """

    def width(example: Example) -> int:
        return max(example.width, example.answer_start + drawn_tokens)

    group: list[Example] = []
    left = len(examples)
    for example in sorted(examples, key=lambda e: (width(e), e.row_id)):
        sequences = 2 if example.rejected else 1
        full = width(example) * sequences * (len(group) + 1) > max_tokens
        if full and len(group) >= at_least and left >= at_least:
            yield group
            group = []
        group.append(example)
        left -= 1
    if group:
        yield group


def learning_rate(step: int, steps: int, *, peak: float, warmup_percent: float) -> float:
    """The rate of step `step`, from 0: a straight line up over the first steps, then half a cosine down to nought."""
    warmup = max(1, round(steps * warmup_percent / 100))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup + 1) / (steps - warmup + 1)))
