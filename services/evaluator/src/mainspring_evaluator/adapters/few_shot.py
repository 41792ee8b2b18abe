"""Answered examples before the question of an item, chosen as lm-evaluation-harness 0.4.13 chooses them.

The rules are those of its `ContextSampler` and `FirstNSampler` (`lm_eval/api/samplers.py`) with the suite's seed in
place of its `fewshot_random_seed`: items are gone through in their order, and one generator draws for all. Where that
would show an item among its own examples, it is left out here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any

from mainspring_evaluator.adapters.task_fields import choices_of, rendered, target_of
from mainspring_evaluator.adapters.task_rows import Row, at
from mainspring_svckit.values import Message

SAMPLERS = ("default", "first_n")
CONFIG = frozenset(
    {
        "doc_to_choice",
        "doc_to_target",
        "doc_to_text",
        "fewshot_delimiter",
        "sampler",
        "samples",
        "split",
        "target_delimiter",
    }
)
"""What is read of a task's `fewshot_config`. Delimiters stand between the parts of one text; examples are turns of a
conversation here, as they are in lm-evaluation-harness under a chat template, which has delimiters of its own.
"""


class Examples:
    """Chooses the examples of each item in turn."""

    def __init__(self, task: Mapping[str, Any], pool: Sequence[Row], count: int, seed: int) -> None:
        """Takes the task, the rows to choose from, how many of them an item gets, and what to draw by."""
        config: Mapping[str, Any] = task.get("fewshot_config") or {}
        self._pool, self._count, self._random = pool, count, Random(seed)  # noqa: S311 - to be drawn again alike.
        self._in_order = config.get("sampler") == "first_n"
        # The harness leaves room for the item itself where examples are drawn from the rows that are asked.
        self._spare = int(config.get("split", task.get("fewshot_split")) == task.get("test_split"))
        self._text, self._choice, self._target = (
            task.get(field) if config.get(field) is None else config[field]
            for field in ("doc_to_text", "doc_to_choice", "doc_to_target")
        )
        self._untyped = task.get("dataset_path") == "csv"
        self._said: dict[int, tuple[Message, Message]] = {}

    def before(self, row: dict[str, Any]) -> list[Message]:
        """The turns to put before a row's question.

        Raises:
            ValueError: There are too few rows beside it, or one of them is no example; it says where.
        """
        return [turn for place in self._chosen(row) for turn in self._example(place)] if self._count else []

    def _chosen(self, row: dict[str, Any]) -> Sequence[int]:
        others = (place for place, (_, other) in enumerate(self._pool) if other != row)
        if self._in_order:
            found = list(islice(others, self._count))
        else:
            drawn: Sequence[int] = ()
            if self._count + self._spare <= len(self._pool):
                drawn = self._random.sample(range(len(self._pool)), self._count + self._spare)
            found = [place for place in drawn if self._pool[place][1] != row][: self._count]
            if len(found) < self._count:
                found = list(others)
                found = self._random.sample(found, self._count) if len(found) >= self._count else found
        if len(found) < self._count:
            raise ValueError(
                f"num_fewshot asks for {self._count} examples, and there are {len(found)} beside the item;"
                " give the task more rows to choose from, or ask for fewer"
            )
        return found

    def _example(self, place: int) -> tuple[Message, Message]:
        if place not in self._said:
            where, row = self._pool[place]
            with at(where):
                choices = choices_of(self._choice, row) if self._choice is not None else None
                answer = target_of(self._target, choices, row, untyped=self._untyped).texts[0]
                if not answer:
                    raise ValueError("an example must have an answer")
                question = rendered("doc_to_text", self._text, row)
                self._said[place] = (Message("user", question), Message("assistant", answer))
        return self._said[place]
