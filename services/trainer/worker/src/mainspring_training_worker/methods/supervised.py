"""Cross-entropy on the tokens to learn: answers for supervised tuning, everything for a plain corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from mainspring_training_worker.batches import Example, micro_batches
from mainspring_training_worker.model import Tunable


class Supervised:
    """`Objective`: negative log-likelihood in nats, per target token."""

    def __init__(self, model: Tunable, padding: int) -> None:
        self._model, self._padding = model, padding

    def weight(self, example: Example) -> int:
        return example.targets

    def groups(self, examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
        return micro_batches(examples, max_tokens)

    def loss_sum(self, group: Sequence[Example]) -> Tensor:
        return self._model.loss_sum(group, self._padding)

    def measures(self) -> dict[str, float]:
        return {}
