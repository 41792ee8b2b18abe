"""Answers that models gave, as far as feedback needs them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

ON_ITS_WAY_S = 60.0
"""Age up to which an answer that nobody has heard of may still be announced."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation; the role in lower case."""

    role: str
    content: str


@dataclass(frozen=True)
class Answer:
    """One answer. Without messages the project does not keep content, and nothing can be learned from the answer."""

    name: str
    model: str
    model_version: str
    release: str
    messages: tuple[Turn, ...]
    text: str
    time: datetime


def may_be_on_its_way(answer_id: str, now: datetime) -> bool:
    """Whether an answer is so young that the event which tells of it may not have come yet.

    Ids of answers are UUIDs of version 7, which begin with the milliseconds since 1970.
    """
    try:
        value = uuid.UUID(answer_id)
    except ValueError:
        return False
    if value.version != 7:
        return False
    age_s = now.timestamp() - (value.int >> 80) / 1000
    return -ON_ITS_WAY_S < age_s < ON_ITS_WAY_S  # Below zero: the clock of the one who answered is ahead of ours.
