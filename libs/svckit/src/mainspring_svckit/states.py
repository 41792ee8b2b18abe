"""State machines of resources. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import StrEnum
from typing import Generic, TypeVar

from mainspring_svckit.errors import IllegalTransition

S = TypeVar("S", bound=StrEnum)


class StateMachine(Generic[S]):
    """Which state may follow which. The table lives in the domain; the contracts' comments repeat it, and a test
    compares them.
    """

    def __init__(self, transitions: Mapping[S, Set[S]]) -> None:
        """Takes, for every state, the states that may follow."""
        self.transitions = transitions

    def check(self, name: str, current: S, target: S) -> None:
        """Raises `IllegalTransition` unless `target` may follow `current`; `name` is the resource's."""
        if target not in self.transitions[current]:
            sources = [state.value for state, targets in self.transitions.items() if target in targets]
            raise IllegalTransition(name, current.value, sources)

    def ended(self, state: S) -> bool:
        """Whether nothing may follow."""
        return not self.transitions[state]
