"""Use cases of judged answers: what they teach is collected, and what somebody wants forgotten is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from mainspring_feedback.application.ports import Ports
from mainspring_feedback.domain.answers import Answer
from mainspring_feedback.domain.judgements import Example, FeedbackItem, example_of, most_telling
from mainspring_svckit.pagination import MAX_PAGE_SIZE, Page
from mainspring_svckit.repository import Entity, Repository, require
from mainspring_svckit.values import folded

E = TypeVar("E", bound=Entity)


@dataclass(frozen=True)
class Filter:
    """Which answers are wanted; what is empty wants all. Times are those of answers, the end not included."""

    model: str = ""
    model_version: str = ""
    release: str = ""
    start: datetime | None = None
    end: datetime | None = None

    def wants(self, answer: Answer) -> bool:
        """Whether an answer is one of them."""
        pairs = ((self.model, answer.model), (self.model_version, answer.model_version), (self.release, answer.release))
        return (
            all(not wanted or wanted == has for wanted, has in pairs)
            and (self.start is None or answer.time >= self.start)
            and (self.end is None or answer.time < self.end)
        )


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer with what the most telling judgement of it teaches."""

    answer: Answer
    item: FeedbackItem
    example: Example


class JudgedAnswers:
    """Use cases of judged answers."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def page(self, parent: str, wanted: Filter, page: Page) -> tuple[Sequence[JudgedAnswer], str | None]:
        """What a page of judgements, newest first, teaches, and the key of the next page. Each answer stands where its
        newest judgement is.
        """
        ports, found = self._ports, list[JudgedAnswer]()
        async with ports.transactions.transaction():
            listed = await ports.items.list(parent, page)
            for stored in listed.items:
                of_answer = await ports.items.find("answer", stored.value.answer)
                if max(item.name for item in of_answer) != stored.value.name:
                    continue
                answer = (await require(ports.answers, "Answer", stored.value.answer)).value
                if wanted.wants(answer) and (judged := await self._judged(answer, of_answer)) is not None:
                    found.append(judged)
        return found, listed.next_key

    async def erase(self, parent: str, text: str) -> tuple[int, int]:
        """Forgets what was said wherever a text is found; returns the numbers of answers and of items."""
        ports, looked_for = self._ports, folded(text)
        answers = items = 0
        async with ports.transactions.transaction():
            async for answer in _all(ports.answers, parent):
                if _holds(looked_for, answer.text, *(turn.content for turn in answer.messages)):
                    await ports.answers.put(replace(answer, messages=(), text=""))
                    answers += 1
            async for item in _all(ports.items, parent):
                if _holds(looked_for, item.comment, item.judgement.correction):
                    await ports.items.put(replace(item, comment="", judgement=replace(item.judgement, correction="")))
                    items += 1
        return answers, items

    async def _judged(self, answer: Answer, items: Sequence[FeedbackItem]) -> JudgedAnswer | None:
        item = most_telling(sorted(items, key=lambda item: item.name, reverse=True))
        judgement = item.judgement.as_lesson if item is not None else None
        if item is None or judgement is None:
            return None
        worse = judgement.rejected_answer
        rejected = (await require(self._ports.answers, "Answer", worse)).value if worse else None
        example = example_of(judgement, answer, rejected)
        return JudgedAnswer(answer, item, example) if example is not None else None


def _holds(looked_for: str, *texts: str) -> bool:
    return any(looked_for in folded(text) for text in texts)


async def _all(repository: Repository[E], parent: str) -> AsyncIterator[E]:
    after: str | None = None
    while True:
        listed = await repository.list(parent, Page(MAX_PAGE_SIZE, after))
        for stored in listed.items:
            yield stored.value
        if (after := listed.next_key) is None:
            return
