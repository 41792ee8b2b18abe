"""The record of every answer: an event in inference's outbox, written together with those of other answers.

An answer is handed out only when its record is durable, so usage is never lost and feedback always finds its answer.
Records that wait while one group is being written form the next group, so the cost is one commit per group and no added
wait when nothing else happens.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mainspring.events.v1.inference_events_pb2 import ResponseCompleted
from mainspring_answers.domain import Answer, Question
from mainspring_eventkit.outbox import Outbox
from mainspring_svckit.database import Database
from mainspring_svckit.errors import MainspringError, Unavailable
from mainspring_svckit.mapping import duration_to_proto, messages_to_proto

GROUP = 200
TIMEOUT_S = 5.0
MAX_CONTENT_CHARACTERS = 200_000


@dataclass(frozen=True)
class _Entry:
    event: ResponseCompleted
    done: asyncio.Future[None]


class OutboxLedger:
    """`Ledger` in the outbox of inference's database."""

    def __init__(self, database: Database, outbox: Outbox, *, keep_content: bool = True) -> None:
        """Takes where to write.

        Args:
            database: Inference's database.
            outbox: An outbox on it.
            keep_content: Whether questions and answers are kept, which feedback needs; they are personal data.
        """
        self._database, self._outbox, self._keep_content = database, outbox, keep_content
        self._waiting: list[_Entry] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, question: Question, answer: Answer) -> None:
        entry = _Entry(self._event(question, answer), asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="ledger")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                # A caller that leaves must not take the record with it.
                await asyncio.shield(entry.done)
        except TimeoutError as err:
            raise Unavailable("LEDGER_UNAVAILABLE", "the answer could not be recorded in time; ask again") from err

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
            try:
                await self._database.run(lambda group=group: self._emit(group))
            except MainspringError as err:
                failure = Unavailable("LEDGER_UNAVAILABLE", f"the answer could not be recorded: {err.reason}")
                for entry in group:
                    if not entry.done.done():
                        entry.done.set_exception(failure)
                        entry.done.exception()  # Its caller may have left; then nobody else looks.
            else:
                for entry in group:
                    if not entry.done.done():
                        entry.done.set_result(None)

    async def _emit(self, group: list[_Entry]) -> None:
        for entry in group:
            await self._outbox.emit(entry.event)

    def _event(self, question: Question, answer: Answer) -> ResponseCompleted:
        event = ResponseCompleted(
            answer=answer.name,
            model_version=answer.model_version,
            release=answer.release,
            finish_reason=answer.finish_reason.value,
            latency=duration_to_proto(answer.latency_s),
            caller=question.caller,
            prompt_version=answer.prompt_version,
            guard_policy_version=answer.guard_policy_version,
            guard_rules=answer.guard_rules,
        )
        event.usage.input_tokens, event.usage.output_tokens = answer.input_tokens, answer.output_tokens
        size = sum(len(message.content) for message in question.messages) + len(answer.text)
        if self._keep_content and size <= MAX_CONTENT_CHARACTERS:
            event.text = answer.text
            event.messages.extend(messages_to_proto(question.messages))
        return event
