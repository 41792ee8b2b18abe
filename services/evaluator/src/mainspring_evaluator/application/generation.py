"""Generates the answers of one version to many prompts: each once, many at a time, again where that can help."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mainspring_evaluator.application.ports import Ports
from mainspring_evaluator.domain.items import Answer, Prompt, answer_key
from mainspring_evaluator.domain.suites import Retrieval, Sampling
from mainspring_svckit.errors import MainspringError, PreconditionFailed, Unavailable
from mainspring_svckit.values import NO_UNIT, ServedUnit

T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """What answers: the name under which it is called, the digest of its files, and what goes with it."""

    name: str
    manifest_sha256: str
    unit: ServedUnit = NO_UNIT

    @property
    def identity(self) -> str:
        """What its answers depend on."""
        digest = self.unit.sha256
        return f"{self.manifest_sha256} {digest}" if digest else self.manifest_sha256


class Generation:
    """Answers of versions, kept so that no version answers the same twice."""

    def __init__(self, ports: Ports, *, concurrency: int, tries: int, retry_wait_s: float) -> None:
        """Takes how hard to try.

        Args:
            ports: The outside.
            concurrency: Answers at a time.
            tries: Most tries for one answer.
            retry_wait_s: Wait before the second try; doubled for each further one.
        """
        self._ports, self._concurrency, self._tries, self._retry_wait_s = ports, concurrency, tries, retry_wait_s

    async def known(
        self,
        project: str,
        version: Version,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        context: Retrieval | None = None,
        timed: bool = False,
    ) -> dict[int, Answer]:
        """Answers that are there already, by the prompt's position."""
        sampling = sampling.under(version.unit)
        keys = [answer_key(version.identity, prompt, sampling, context=context, timed=timed) for prompt in prompts]
        async with self._ports.transactions.transaction():
            found = await self._ports.answers.known(project, keys)
        return {index: found[key] for index, key in enumerate(keys) if key in found}

    async def generate(
        self,
        project: str,
        version: Version,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        known: dict[int, Answer],
        after_each: Callable[[Answer], Awaitable[None]],
        context: Retrieval | None = None,
        timed: bool = False,
    ) -> list[Answer]:
        """The answers to all prompts, in their order; those in `known` are not generated again.

        Raises:
            PreconditionFailed: INFERENCE_FAILED, the version cannot answer one of them.
            Unavailable: INFERENCE_FAILED, it could not after some tries; what was answered is kept.
        """
        sampling = sampling.under(version.unit)
        answers, asking = dict(known), asyncio.Semaphore(self._concurrency)

        async def one(index: int) -> None:
            prompt = prompts[index]
            async with asking:
                answer = await self.patiently(
                    f"item {index}",
                    lambda: self._ports.inference.answer(
                        version.name, prompt, sampling, context=context, timed=timed, unit=version.unit
                    ),
                )
            async with self._ports.transactions.transaction():
                key = answer_key(version.identity, prompt, sampling, context=context, timed=timed)
                await self._ports.answers.put(project, key, answer)
            answers[index] = answer
            await after_each(answer)

        # Half as many again, so that the next questions are asked while answers are being kept.
        workers = self._concurrency + (self._concurrency + 1) // 2
        await self.each((index for index in range(len(prompts)) if index not in known), one, workers=workers)
        return [answers[index] for index in range(len(prompts))]

    async def each(self, things: Iterable[T], do: Callable[[T], Awaitable[None]], *, workers: int = 0) -> None:
        """Does something with each, `workers` (default: `concurrency`) at a time; the first error ends the rest and is
        raised as it is.
        """
        waiting = iter(things)

        async def worker() -> None:
            for thing in waiting:
                await do(thing)

        tasks = [asyncio.create_task(worker()) for _ in range(workers or self._concurrency)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def patiently(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks until there is an answer, at most `tries` times.

        Raises:
            PreconditionFailed: INFERENCE_FAILED, asking again cannot help.
            Unavailable: INFERENCE_FAILED, no try helped.
        """
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
