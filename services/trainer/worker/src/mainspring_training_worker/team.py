"""Several processes that learn one run together, each a share of every step's rows.

A step's gradient is a sum over its rows, so each process computes its share, all sums are added, and every process does
the same update: the weights stay equal without being sent. With one process nothing is shared and nothing is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
from torch import Tensor, distributed

from mainspring_training_worker.spec import TeamSpec

T = TypeVar("T")
_PATIENCE = timedelta(minutes=30)
"""For a slow member; one that has died is noticed at once, since its connection closes."""


class Stopped(Exception):
    """The parent asked to stop; what was learned since the last whole step is dropped."""


class Diverged(Exception):
    """The loss has left all bounds; says how."""


class Team(Protocol):
    """The processes of a run, as one of them sees them."""

    @property
    def leads(self) -> bool:
        """Whether this one tells, writes checkpoints and makes the result."""
        ...

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Which of a step's items are this one's."""
        ...

    def begin(self, seed: int, step: int) -> None:
        """Before each step: makes its random numbers a function of the step and the member."""
        ...

    def total(self, value: float, ended: Stopped | Diverged | None) -> float:
        """The sum over all members.

        Raises:
            Stopped: A member was asked to stop.
            Diverged: A member's loss has left all bounds.
        """
        ...

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Makes every gradient the sum over all members."""
        ...

    def as_leader(self, value: bool) -> bool:
        """The leader's value, with every member."""
        ...

    def part(self) -> None:
        """Ends the connection."""
        ...


def team_of(spec: TeamSpec | None) -> Team:
    """Joins the team that a specification names; alone when it names none."""
    return Alone() if spec is None or spec.size == 1 else Together(spec)


class Alone:
    """`Team` of one: the run's random numbers go on from step to step, and nothing is sent."""

    leads = True

    def share(self, items: Sequence[T]) -> Sequence[T]:
        return items

    def begin(self, seed: int, step: int) -> None:
        return None

    def total(self, value: float, ended: Stopped | Diverged | None) -> float:
        if ended is not None:
            raise ended
        return value

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        return None

    def as_leader(self, value: bool) -> bool:
        return value

    def part(self) -> None:
        return None


class Together:
    """`Team` of several by gloo, which runs on every processor."""

    def __init__(self, spec: TeamSpec) -> None:
        self._rank, self._size = spec.rank, spec.size
        distributed.init_process_group(
            "gloo",
            init_method=f"tcp://{spec.address}",
            rank=spec.rank,
            world_size=spec.size,
            timeout=_PATIENCE,
        )

    @property
    def leads(self) -> bool:
        return self._rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        return items[self._rank :: self._size]

    def begin(self, seed: int, step: int) -> None:
        torch.manual_seed(hash((seed, step, self._rank)))  # Of integers only, so the same in every process.

    def total(self, value: float, ended: Stopped | Diverged | None) -> float:
        stopped, diverged = isinstance(ended, Stopped), isinstance(ended, Diverged)
        said = torch.tensor([0.0 if ended else value, float(stopped), float(diverged)], dtype=torch.float64)
        distributed.all_reduce(said)
        total, any_stopped, any_diverged = said.tolist()
        if any_stopped:
            raise Stopped
        if any_diverged:
            raise ended if isinstance(ended, Diverged) else Diverged("the loss of another worker has left all bounds")
        return total

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        held = list(parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held])
        distributed.all_reduce(flat)
        at = 0
        for parameter in held:
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()

    def as_leader(self, value: bool) -> bool:
        said = torch.tensor([int(value)])
        distributed.broadcast(said, 0)
        return bool(said.item())

    def part(self) -> None:
        distributed.destroy_process_group()
