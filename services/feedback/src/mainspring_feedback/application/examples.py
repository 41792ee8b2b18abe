"""Use case of a trigger that has fired: its lessons become a file, and the loop turns."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from mainspring_feedback.application.ports import Ports
from mainspring_feedback.application.triggers import WORK_KIND, lesson_key
from mainspring_feedback.domain.answers import Answer
from mainspring_feedback.domain.judgements import Example, Lesson, example_of
from mainspring_feedback.domain.triggers import Firing
from mainspring_svckit.names import ModelName
from mainspring_svckit.pagination import MAX_PAGE_SIZE, Page
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require

MAX_BYTES = 64 << 30
POSTPONE_S = 600.0
_BATCH = 200


@dataclass
class _Written:
    """How much of a file is there."""

    lines: int = 0


class Examples:
    """Writes the files of firings."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def run(self, firing: Firing, lease: Claim) -> None:
        """Writes a firing's file and announces it. Safe to repeat from the start: the same lessons give the same file.

        Raises:
            MainspringError: The store or the database failed.
        """
        ports = self._ports
        items, written = await self._items(firing), _Written()
        examples = await ports.files.put_stream(
            ModelName.parse(firing.model).project,
            self._lines(items, written),
            max_bytes=MAX_BYTES,
            media_type="application/jsonl",
            filename=f"feedback-{firing.number}.jsonl",
        )
        async with lease.complete():
            await require(ports.triggers, "RetrainingTrigger", firing.trigger, lock=True)
            await ports.announcements.preferences_ready(firing, examples, written.lines)

    async def postpone(self, firing: Firing) -> None:
        """Tries a firing again later; what people said is never given up. Joins the ambient transaction."""
        await self._ports.work.enqueue(WORK_KIND, firing.key, asdict(firing), delay_s=POSTPONE_S)

    async def _items(self, firing: Firing) -> dict[str, str]:
        """The item of each answer that teaches most, the newest of those; by answer."""
        taken: dict[str, Lesson] = {}
        after: str | None = lesson_key(firing.after)
        while after is not None:
            async with self._ports.transactions.transaction():
                listed = await self._ports.lessons.list(firing.model, Page(MAX_PAGE_SIZE, after))
            lessons = [stored.value for stored in listed.items if stored.value.number <= firing.until]
            for lesson in lessons:
                if lesson.replaces(taken.get(lesson.answer)):
                    taken[lesson.answer] = lesson
            after = listed.next_key if len(lessons) == len(listed.items) else None
        return {answer: lesson.item for answer, lesson in taken.items()}

    async def _lines(self, items: dict[str, str], written: _Written) -> AsyncIterator[bytes]:
        pairs = list(items.items())
        for start in range(0, len(pairs), _BATCH):
            async with self._ports.transactions.transaction():
                lines = [await self._line(answer, item) for answer, item in pairs[start : start + _BATCH]]
            written.lines += sum(map(bool, lines))
            yield b"".join(lines)

    async def _line(self, answer_name: str, item_name: str) -> bytes:
        """An answer's line; none for one whose content was erased since it was judged."""
        answer = (await require(self._ports.answers, "Answer", answer_name)).value
        judgement = (await require(self._ports.items, "FeedbackItem", item_name)).value.judgement
        worse = judgement.rejected_answer
        rejected = (await require(self._ports.answers, "Answer", worse)).value if worse else None
        example = example_of(judgement, answer, rejected)
        return example_line(answer, example) if example is not None else b""


def example_line(answer: Answer, example: Example) -> bytes:
    """A conversation and what was said of its last message, as a JSON line."""
    messages = [asdict(turn) for turn in answer.messages]
    messages.append({"role": "assistant", "content": example.text})
    line: dict[str, Any] = {"messages": messages}
    if example.rejected:
        line["rejected"] = example.rejected
    if example.desirable is not None:
        line["desirable"] = example.desirable
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
