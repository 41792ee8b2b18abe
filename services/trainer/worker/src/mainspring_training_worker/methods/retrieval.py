"""Learning which answer belongs to which question: multiple negatives ranking (Henderson et al. 2017,
arXiv:1705.00652), the loss that sentence-transformers calls MultipleNegativesRankingLoss (adr/0025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mainspring_training_worker.batches import Example
from mainspring_training_worker.device import moved
from mainspring_training_worker.embedding import vectors
from mainspring_training_worker.model import Tunable
from mainspring_training_worker.spec import Refused, Spec

_SCALE = 20.0
"""What cosines are multiplied by, as in sentence-transformers: the inverse of a temperature of 0.05."""


class Ranked:
    """`Objective`: a question's own answer against all other answers of its step, and against every worse one."""

    def __init__(self, model: Tunable, padding: int, group_rows: int) -> None:
        self._model, self._padding, self._group_rows = model, padding, group_rows
        self._right = self._asked = 0

    def weight(self, example: Example) -> int:
        return 1

    def groups(self, examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
        """As many rows as a step has: what the others are told apart from is part of the loss, so nothing is split."""
        count = max(1, len(examples) // self._group_rows)
        for number in range(count):
            yield list(examples[number * len(examples) // count : (number + 1) * len(examples) // count])

    def loss_sum(self, group: Sequence[Example]) -> Tensor:
        answers = [example.answer for example in group] + [example.rejected for example in group if example.rejected]
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._model.half):
            asked = vectors(self._model.module, [example.prompt for example in group], self._padding)
            told = vectors(self._model.module, answers, self._padding)
        scores = asked @ told.T * _SCALE
        own = torch.arange(len(group), device=scores.device)
        # The same answer to another question is no wrong one.
        same = torch.tensor([[left == right for right in answers] for left in answers[: len(group)]])
        same = moved(same.fill_diagonal_(0), scores.device)
        scores = scores.masked_fill(same, -torch.inf)
        self._right += int((scores.argmax(dim=1) == own).sum())
        self._asked += len(group)
        return cross_entropy(scores, own, reduction="sum")

    def measures(self) -> dict[str, float]:
        found = {"retrieval_accuracy": self._right / self._asked} if self._asked else {}
        self._right = self._asked = 0
        return found


def retrieval_objective(spec: Spec, model: Tunable, padding: int) -> Ranked:
    """The objective of METHOD_EMBEDDING.

    Raises:
        Refused: METHOD_UNSHARED, several processes would each see a part of the other answers only.
    """
    if spec.team is not None and spec.team.size > 1:
        message = (
            "METHOD_EMBEDDING tells a step's rows apart from each other, which one process must do; use one worker"
        )
        raise Refused("METHOD_UNSHARED", message)
    return Ranked(model, padding, spec.optimization.batch_rows)
