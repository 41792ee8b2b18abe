"""Generates the answers of one version to many prompts: each once, many at a time, again where that can help."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from mainspring_evaluator.application.ports import Ports
from mainspring_evaluator.domain.inquiries import Inquiry
from mainspring_evaluator.domain.items import Answer
from mainspring_svckit.errors import MainspringError, PreconditionFailed, Unavailable

T = TypeVar("T")
Keep = Callable[[str, Answer], Awaitable[None]]


class Generation:
    """Answers of versions, kept so that no version answers the same twice; one in each replica bounds what it asks."""

    def __init__(self, ports: Ports, *, concurrency: int, tries: int, retry_wait_s: float) -> None:
        """Takes how hard to try.

        Args:
            ports: The outside.
            concurrency: Questions at a time, whoever asks them.
            tries: Most tries for one answer.
            retry_wait_s: Wait before the second try; doubled for each further one.
        """
        self._ports, self.concurrency, self._tries, self._retry_wait_s = ports, concurrency, tries, retry_wait_s
        self._asking = asyncio.Semaphore(concurrency)

    async def known(self, project: str, inquiry: Inquiry) -> dict[int, Answer]:
        """Answers that are there already, by the prompt's position."""
        keys = inquiry.keys
        async with self._ports.transactions.transaction():
            found = await self._ports.answers.known(project, keys)
        return {index: found[key] for index, key in enumerate(keys) if key in found}

    async def generate(
        self,
        project: str,
        inquiry: Inquiry,
        *,
        known: dict[int, Answer],
        keep: Keep | None = None,
        last_round: Callable[[], None] | None = None,
    ) -> list[Answer]:
        """The answers to all prompts, in their order; those in `known` are not generated again.

        Args:
            project: Whose answers they are.
            inquiry: What is asked.
            known: Answers that are there.
            keep: Keeps an answer under its key; by default in a transaction of its own.
            last_round: Called when no more questions wait than are asked at a time.

        Raises:
            PreconditionFailed: INFERENCE_FAILED, the version cannot answer one of them.
            Unavailable: INFERENCE_FAILED, it could not after some tries; what was answered is kept.
        """
        version, sampling, keys, answers = inquiry.version, inquiry.applied_sampling, inquiry.keys, dict(known)

        async def keep_here(key: str, answer: Answer) -> None:
            async with self._ports.transactions.transaction():
                await self._ports.answers.put(project, {key: answer})

        async def one(index: int) -> None:
            answer = await self.patiently(
                f"item {inquiry.numbers[index] if inquiry.numbers else index}",
                lambda: self._ports.inference.answer(
                    version.name,
                    inquiry.prompts[index],
                    sampling,
                    context=inquiry.context,
                    timed=inquiry.timed,
                    unit=version.unit,
                ),
            )
            await (keep or keep_here)(keys[index], answer)
            answers[index] = answer

        missing = [index for index in range(len(keys)) if index not in known]
        # Twice as many, so that the next questions are asked while answers are being kept.
        await self.each(self._announcing(missing, last_round), one, workers=2 * self.concurrency)
        return [answers[index] for index in range(len(keys))]

    def _announcing(self, indexes: Sequence[int], last_round: Callable[[], None] | None) -> Iterator[int]:
        for place, index in enumerate(indexes):
            # Of those that were taken before it, as many wait as are asked at a time.
            if last_round is not None and place == len(indexes) - 1:
                last_round()
            yield index

    async def each(self, things: Iterable[T], do: Callable[[T], Awaitable[None]], *, workers: int = 0) -> None:
        """Does something with each, `workers` (default: `concurrency`) at a time; the first error ends the rest and is
        raised as it is.
        """
        waiting = iter(things)

        async def worker() -> None:
            for thing in waiting:
                await do(thing)

        tasks = [asyncio.create_task(worker()) for _ in range(workers or self.concurrency)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def patiently(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks until there is an answer, at most `tries` times, once this replica has a place for one more question.

        Raises:
            PreconditionFailed: INFERENCE_FAILED, asking again cannot help.
            Unavailable: INFERENCE_FAILED, no try helped.
        """
        async with self._asking:
            for attempt in range(1, self._tries + 1):
                try:
                    return await ask()
                except Unavailable as err:
                    if attempt == self._tries:
                        message = f"{what} was not answered in {attempt} tries: {err.message}"
                        raise Unavailable("INFERENCE_FAILED", message) from err
                    await asyncio.sleep(self._retry_wait_s * 2 ** (attempt - 1))
                except MainspringError as err:
                    message = f"{what} was refused: {err.reason}: {err.message}"
                    raise PreconditionFailed("INFERENCE_FAILED", message, {"cause": err.reason}) from err
        raise AssertionError("unreachable")
