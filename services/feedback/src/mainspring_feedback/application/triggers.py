"""Use cases of retraining triggers: lessons are counted, and enough of them turn the loop.

Everything about the lessons of one model happens under the lock of its row, and each trigger's row is locked after it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from mainspring_feedback.application.ports import Ports
from mainspring_feedback.domain.judgements import JudgedModel, Kind, Lesson
from mainspring_feedback.domain.triggers import RetrainingTrigger, Wishes
from mainspring_svckit.errors import AlreadyExists
from mainspring_svckit.names import IngestionRecipeName, ModelName, RetrainingTriggerName
from mainspring_svckit.pagination import MAX_PAGE_SIZE, Page
from mainspring_svckit.repository import Stored, require

WORK_KIND = "examples"


@dataclass(frozen=True)
class PutTrigger:
    """A trigger as it should be."""

    name: str
    wishes: Wishes
    etag: str
    allow_missing: bool


class Triggers:
    """Use cases of triggers."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def put(self, command: PutTrigger) -> Stored[RetrainingTrigger]:
        """Writes a trigger. One that finds enough lessons waiting fires at once.

        Raises:
            InvalidInput: A name in it is malformed.
            NotFound: It is missing and `allow_missing` is not set.
            EtagMismatch: It was written since `etag` was read; every lesson that it counts writes it.
        """
        RetrainingTriggerName.parse(command.name, "retraining_trigger.name")
        ports, wishes = self._ports, command.wishes
        ModelName.parse(wishes.model, "retraining_trigger.model")
        IngestionRecipeName.parse(wishes.ingestion_recipe, "retraining_trigger.ingestion_recipe")
        async with ports.transactions.transaction():
            model = await self._locked_model(wishes.model)
            found = await ports.triggers.get(command.name, lock=True)
            if found is None and not command.allow_missing:
                await require(ports.triggers, "RetrainingTrigger", command.name)
            before = found.value if found is not None else None
            trigger = (before or RetrainingTrigger(command.name, "", "", wishes.min_items)).configured(wishes)
            if before is None or (before.model, before.count_thumbs) != (wishes.model, wishes.count_thumbs):
                trigger = replace(trigger, pending_items=await self._waiting(trigger, model.lessons))
            stored = await ports.triggers.put(trigger, etag=command.etag)
            return await self._fire_if_due(stored, model.lessons)

    async def count_lesson(self, model_name: str, answer: str, item: str, kind: Kind) -> None:
        """Counts an item that a model can learn from. Joins the ambient transaction."""
        ports = self._ports
        model = await self._locked_model(model_name)
        earlier = await ports.lessons.find("answer", answer)
        lesson = Lesson(model_name, model.lessons + 1, answer, item, kind)
        await ports.judged_models.put(replace(model, lessons=lesson.number))
        await ports.lessons.add(lesson)
        for name in sorted(trigger.name for trigger in await ports.triggers.find("model", model_name)):
            trigger = (await require(ports.triggers, "RetrainingTrigger", name, lock=True)).value
            # Another lesson on an answer that waits takes that one's place.
            waits = any(trigger.counts(other) for other in earlier)
            if trigger.model == model_name and trigger.counts(lesson) and not waits:
                counted = replace(trigger, pending_items=trigger.pending_items + 1)
                await self._fire_if_due(await ports.triggers.put(counted), lesson.number)

    async def _fire_if_due(self, stored: Stored[RetrainingTrigger], until: int) -> Stored[RetrainingTrigger]:
        ports = self._ports
        if not stored.value.is_due:
            return stored
        trigger, firing = stored.value.fired(until, ports.new_id(), ports.clock.now())
        await ports.work.enqueue(WORK_KIND, firing.key, asdict(firing))
        return await ports.triggers.put(trigger)

    async def _waiting(self, trigger: RetrainingTrigger, until: int) -> int:
        """Answers with a lesson that counts."""
        answers: set[str] = set()
        after: str | None = lesson_key(trigger.taken)
        while after is not None:
            listed = await self._ports.lessons.list(trigger.model, Page(MAX_PAGE_SIZE, after))
            lessons = [stored.value for stored in listed.items if stored.value.number <= until]
            answers.update(lesson.answer for lesson in lessons if trigger.counts(lesson))
            after = listed.next_key
        return len(answers)

    async def _locked_model(self, name: str) -> JudgedModel:
        found = await self._ports.judged_models.get(name, lock=True)
        if found is None:
            try:
                return (await self._ports.judged_models.add(JudgedModel(name))).value
            except AlreadyExists:
                # Another replica made it while we looked; by now it has committed.
                found = await require(self._ports.judged_models, "JudgedModel", name, lock=True)
        return found.value


def lesson_key(number: int) -> str:
    """What orders a model's lessons."""
    return f"{number:012}"
