"""A release's guard on the way of one question: first over what comes in, then over what goes out."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from prometheus_client import Counter

from mainspring_answers.domain import Question
from mainspring_guards.guard import Checked, Guard, GuardedAnswer, compiled, keep_compiled, known_guard
from mainspring_svckit.values import Message, ServedGuard

_LONG_CHARACTERS = 20_000
FOUND = Counter(
    "mainspring_guard_answers_total",
    "Answers in which a guard found something, by side and by whether it refused. Rules are named in the records.",
    ["side", "verdict"],
)


class Guarded:
    """What a guard says of one question and its answer.

    Attributes:
        policy: Name of the guard policy's version.
        question: The question as it may be asked. One that is refused has no words, so that no record keeps them.
        refusal: What is answered instead; None when the question may be asked.
    """

    def __init__(self, policy: str, question: Question, checked: Checked, answer: GuardedAnswer | None) -> None:
        self.policy, self.refusal = policy, checked.refusal
        self._answer, self._fired = answer, checked.fired
        if checked.refusal is not None:
            self.question = replace(question, messages=(), raw_prompt="")
        elif question.messages:
            self.question = replace(question, messages=checked.messages)
        else:
            self.question = replace(question, raw_prompt=checked.messages[0].content)
        if checked.fired:
            _count("question", refused=checked.refusal is not None)

    @property
    def fired(self) -> tuple[str, ...]:
        """Ids of the rules that found something, those of the question first."""
        said = self._answer.fired if self._answer is not None else ()
        return tuple(dict.fromkeys((*self._fired, *said)))

    @property
    def refused(self) -> bool:
        """Whether a rule refused the question or ended the answer."""
        return self.refusal is not None or (self._answer is not None and self._answer.refused)

    def feed(self, piece: str, *, last: bool) -> str:
        """Takes the model's next words and returns what may leave."""
        if self._answer is None:
            return piece
        text = self._answer.feed(piece)
        return text + self._answer.finish() if last else text

    def done(self) -> None:
        """Counts what was found in the answer."""
        if self._answer is not None and self._answer.fired:
            _count("answer", refused=self._answer.refused)


async def guarded(served: ServedGuard, question: Question) -> Guarded:
    """Looks at a question.

    Raises:
        PreconditionFailed: GUARD_POLICY_BROKEN, the guard is not the one that was released.
    """
    guard = await _guard_of(served)
    said = question.messages or (Message("user", question.raw_prompt),)
    if sum(len(message.content) for message in said) > _LONG_CHARACTERS:
        # It can take a second, and others are being answered.
        checked = await asyncio.to_thread(guard.question, said)
    else:
        checked = guard.question(said)
    return Guarded(served.guard_policy_version, question, checked, guard.answer())


async def _guard_of(served: ServedGuard) -> Guard:
    guard = known_guard(served)
    if guard is None:
        # A caller's own rules come with each question, and others are being answered while they are compiled.
        guard = await asyncio.to_thread(compiled, served)
        keep_compiled(served, guard)
    return guard


def _count(side: str, *, refused: bool) -> None:
    FOUND.labels(side, "refused" if refused else "found").inc()
