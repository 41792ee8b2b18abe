"""What the loop needs of a method. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from mainspring_training_worker.batches import Example


class Objective(Protocol):
    """A loss that is a sum over parts of the examples, so that a step's gradient does not depend on micro-batches."""

    def weight(self, example: Example) -> int:
        """How much an example counts: target tokens, or 1 where an example counts as a whole."""
        ...

    def groups(self, examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
        """The examples in micro-batches of at most about `max_tokens` padded tokens."""
        ...

    def loss_sum(self, group: Sequence[Example]) -> Any:
        """The summed loss of a micro-batch, a scalar tensor; divided by the summed weights it is the mean."""
        ...

    def measures(self) -> dict[str, float]:
        """What else was measured since the last call, by name; means over micro-batches."""
        ...
