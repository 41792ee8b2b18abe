"""A run's questions, asked by all replicas together.

The replica that has the run parts what is not answered yet into shards; each is leased work that whichever replica has
room takes, its own worker included. Answers go where all answers are kept, one by one, so a shard that changes hands
goes on where it was. The owner waits until no shard is open, and reads the answers from there. Who takes over a run
finds its shards and waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.ports import Ports
from mainspring_evaluator.domain.inquiries import Bounds, Inquiry, Shard, Tally, parts
from mainspring_evaluator.domain.items import Answer
from mainspring_evaluator.domain.runs import RUN_STATES
from mainspring_evaluator.domain.suites import Budget
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import EvaluationRunName
from mainspring_svckit.ports import Claim

ANSWER_WORK = "evaluation-answers"
SHARDS_AT_A_TIME = 3
"""Shards that a replica has at a time: one that it asks, the last answers of the one before, and the next."""
_ROUNDS = 4
_LOOK_EVERY_S = 1.0

Told = Callable[[Mapping[str, Tally]], Awaitable[None]]


async def end_shards(ports: Ports, run: str) -> bool:
    """Takes a run's shards back; whether some were open, so that a replica may still ask. Joins the ambient
    transaction.
    """
    some_open = any(tally.open for tally in (await ports.shards.tallies(run)).values())
    # The work first and then the shards, as those who do it.
    await ports.work.forget(ANSWER_WORK, await ports.shards.names(run))
    await ports.shards.drop(run)
    return some_open


class Shared:
    """What one run asks of all replicas."""

    def __init__(self, ports: Ports, generation: Generation, run: str, bounds: Bounds, lease: Claim) -> None:
        """Takes the run, what it may use, and what its owner holds while it works on it."""
        self._ports, self._generation, self._run, self._bounds, self._lease = ports, generation, run, bounds, lease
        self._project = EvaluationRunName.parse(run).project
        self._first_check_s = 0.0

    async def want(self, stage: str, inquiry: Inquiry) -> dict[int, Answer]:
        """Shares out the questions that have no answer yet, and returns the answers that are there.

        Raises:
            PreconditionFailed: The version cannot be loaded.
            Unavailable: Not now.
            LeaseLost: Another worker has the run, or it was cancelled.
        """
        known = await self._generation.known(self._project, inquiry)
        missing = [index for index in range(len(inquiry.prompts)) if index not in known]
        if missing:
            await self._ports.inference.hold(inquiry.version.name, self._run)
            await self._share_out(stage, inquiry, missing)
        return known

    async def collect(
        self, stage: str, inquiry: Inquiry, known: Mapping[int, Answer], tell: Told | None = None
    ) -> list[Answer]:
        """The answers to all questions of a stage that was shared out, in their order; `tell` hears how far they are.

        Raises:
            PreconditionFailed: BUDGET_EXCEEDED, or what a shard failed with.
            Unavailable: Not now.
            LeaseLost: As `want`.
        """
        while len(known) < len(inquiry.prompts):
            with self._ports.shards.changes(self._run) as changes:
                while await self._is_open(stage, tell):
                    await changes.wait(_LOOK_EVERY_S)
            known = await self.want(stage, inquiry)
        return [known[index] for index in range(len(inquiry.prompts))]

    async def ask(self, stage: str, inquiry: Inquiry) -> list[Answer]:
        """Shares out and waits. Raises as `collect`."""
        return await self.collect(stage, inquiry, await self.want(stage, inquiry))

    async def check(self) -> None:
        """Holds what the run used so far against what it may, before something is asked that no shard is made of.

        Raises:
            PreconditionFailed: BUDGET_EXCEEDED.
        """
        if self._bounds.budget == Budget():
            return
        now_s = asyncio.get_running_loop().time()
        self._first_check_s = self._first_check_s or now_s
        async with self._ports.transactions.transaction():
            used = await self._ports.shards.used(self._run)
        # Where every answer was there nothing was shared out, and no time counted.
        self._bounds.check(replace(used, elapsed_s=max(used.elapsed_s, now_s - self._first_check_s)))

    async def generated(self, stages: Sequence[str]) -> int:
        """Answers that were made for these stages of the run, whoever made them."""
        async with self._ports.transactions.transaction():
            tallies = await self._ports.shards.tallies(self._run)
        return sum(tallies[stage].generated for stage in stages if stage in tallies)

    async def _share_out(self, stage: str, inquiry: Inquiry, missing: Sequence[int]) -> None:
        ports = self._ports
        shards = [
            Shard(
                f"{self._run}/shards/{ports.new_id()}",
                self._run,
                stage,
                inquiry.part([missing[place] for place in part]),
                self._bounds,
            )
            for part in parts(len(missing), _ROUNDS * self._generation.concurrency)
        ]
        async with self._lease.transaction():
            tally = (await ports.shards.tallies(self._run)).get(stage, Tally())
            # Else they are those that the run's owner before shared out, or the run is about to fail with theirs.
            if not tally.open and tally.failure is None:
                before = len(await ports.shards.names(self._run))
                await ports.shards.add(shards)
                await ports.work.enqueue_all(ANSWER_WORK, [shard.name for shard in shards], after=before)

    async def _is_open(self, stage: str, tell: Told | None) -> bool:
        ports = self._ports
        async with ports.transactions.transaction():
            tallies = await ports.shards.tallies(self._run)
            used = await ports.shards.used(self._run)
        tally = tallies.get(stage, Tally())
        if tally.failure is not None:
            raise PreconditionFailed(*tally.failure)
        if tally.open:
            self._bounds.check(used)
        if tell is not None:
            await tell(tallies)
        return tally.open > 0


class Answering:
    """A replica's part in the runs of all."""

    def __init__(self, ports: Ports, generation: Generation) -> None:
        self._ports, self._generation = ports, generation
        self._turn = asyncio.Semaphore(1)

    async def room(self) -> None:
        """Returns when this replica is about to run out of questions, so that it takes no shard that another, which has
        nothing to do, could ask at once. The next call returns after `answer` was called.
        """
        await self._turn.acquire()

    async def answer(self, name: str, lease: Claim, *, again: bool = False) -> None:
        """Has the questions of a shard answered that are not yet.

        Args:
            name: The shard.
            lease: What the replica holds while it works on it.
            again: Whether an attempt failed before. The version may be gone from memory then, and is held anew.

        Raises:
            PreconditionFailed: INFERENCE_FAILED, one cannot be answered; DEPLOYMENT_FAILED; BUDGET_EXCEEDED.
            Unavailable: INFERENCE_FAILED, not now; what was answered is kept.
            LeaseLost: Another replica has it, or its run has ended.
        """
        passed_on = False

        def pass_on() -> None:
            nonlocal passed_on
            if not passed_on:
                passed_on = True
                self._turn.release()

        try:
            await self._answer(name, lease, pass_on, again=again)
        finally:
            pass_on()

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Tells the run's owner that a shard cannot be finished. Joins the ambient transaction."""
        await self._ports.shards.close(name, (reason, message))

    async def _answer(self, name: str, lease: Claim, last_round: Callable[[], None], *, again: bool) -> None:
        ports = self._ports
        async with lease.transaction():
            shard = await ports.shards.get(name)
            run = await ports.runs.get(shard.run)
        if run is None or RUN_STATES.ended(run.value.state):
            # A replica of a version that knows no shards has ended it. Outside of the lease's transaction, lest two
            # replicas that each have a shard of it wait for each other.
            async with ports.transactions.transaction():
                await end_shards(ports, shard.run)
            return
        project = EvaluationRunName.parse(shard.run).project
        known = await self._generation.known(project, shard.inquiry)
        async with lease.transaction():
            await ports.shards.found(name, len(known))
        if again and len(known) < len(shard.inquiry.prompts):
            await ports.inference.hold(shard.inquiry.version.name, shard.run)

        waiting, writing = list[tuple[str, Answer]](), asyncio.Lock()

        async def keep(key: str, answer: Answer) -> None:
            waiting.append((key, answer))
            async with writing:
                if not waiting:
                    return  # Whoever wrote meanwhile took it along.
                kept = waiting.copy()
                waiting.clear()
                async with lease.transaction():
                    await ports.answers.put(project, dict(kept))
                    await ports.shards.made(name, [said for _, said in kept])
            if shard.bounds.budget != Budget():
                async with ports.transactions.transaction():
                    used = await ports.shards.used(shard.run)
                shard.bounds.check(used)

        await self._generation.generate(project, shard.inquiry, known=known, keep=keep, last_round=last_round)
        async with lease.complete():
            await ports.shards.close(name)
