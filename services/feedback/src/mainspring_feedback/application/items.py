"""Use cases of answers and of what people say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mainspring_feedback.application.ports import Ports
from mainspring_feedback.application.triggers import Triggers
from mainspring_feedback.domain.answers import Answer, may_be_on_its_way
from mainspring_feedback.domain.judgements import FeedbackItem, Judgement, check_comparable, example_of
from mainspring_svckit.errors import AlreadyExists, NotFound, Unavailable
from mainspring_svckit.names import AnswerName, FeedbackItemName
from mainspring_svckit.pagination import Page

RETRY_AFTER_S = 0.5


@dataclass(frozen=True)
class CreateFeedbackItem:
    """A judgement as somebody gives it."""

    project: str
    item_id: str
    answer: str
    judgement: Judgement
    comment: str
    author: str


class Items:
    """Use cases of answers and feedback items."""

    def __init__(self, ports: Ports, triggers: Triggers) -> None:
        self._ports, self._triggers = ports, triggers

    async def heard_of(self, answer: Answer) -> None:
        """Keeps an answer; one that is kept already stays as it was first told."""
        async with self._ports.transactions.transaction():
            try:
                await self._ports.answers.add(answer)
            except AlreadyExists:
                return

    async def create(self, command: CreateFeedbackItem) -> FeedbackItem:
        """Records a judgement; one that a model can learn from may turn the loop.

        Raises:
            NotFound: There is no such answer.
            Unavailable: ANSWER_NOT_KNOWN_YET, the answer is so young that it may not have been announced yet.
            InvalidInput: The two answers of a preference cannot be compared.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            answer = await self._answer(command.answer)
            if command.judgement.rejected_answer:
                check_comparable(answer, await self._answer(command.judgement.rejected_answer))
            item = FeedbackItem(
                name=str(FeedbackItemName(command.project, command.item_id)),
                answer=answer.name,
                judgement=command.judgement,
                comment=command.comment,
                author=command.author,
                model_version=answer.model_version,
                release=answer.release,
                create_time=ports.clock.now(),
            )
            await ports.items.add(item)
            if example_of(item.judgement, answer) is not None:
                await self._triggers.count_lesson(answer.model, answer.name, item.name, item.judgement.kind)
            await ports.announcements.item_recorded(item)
            return item

    async def page(self, project: str, answer: str, page: Page) -> tuple[Sequence[FeedbackItem], str | None]:
        """One page of a project's items, newest first, and the key of the next; only those on `answer` when given."""
        async with self._ports.transactions.transaction():
            if not answer:
                listed = await self._ports.items.list(project, page)
                return [stored.value for stored in listed.items], listed.next_key
            found = await self._ports.items.find("answer", answer)
        # People judge one answer a few times, so all of its items are read.
        rest = [item for item in found if page.after is None or item.name < page.after]
        return rest[: page.size], rest[page.size - 1].name if len(rest) > page.size else None

    async def _answer(self, name: str) -> Answer:
        parsed = AnswerName.parse(name, "feedback_item.answer")
        found = await self._ports.answers.get(name)
        if found is not None:
            return found.value
        if may_be_on_its_way(parsed.answer, self._ports.clock.now()):
            message = f"nobody has told of {name} yet; try again in a moment"
            raise Unavailable("ANSWER_NOT_KNOWN_YET", message, retry_after_s=RETRY_AFTER_S, metadata={"name": name})
        raise NotFound("Answer", name)
