"""Why a model may not come in. Standard library only."""

from __future__ import annotations


class Refused(Exception):
    """The source is not a model that may come in.

    Args:
        reason: Stable name, UPPER_SNAKE; contract.
        message: What is wrong and what to do next, for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message
