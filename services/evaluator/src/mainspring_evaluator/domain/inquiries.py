"""What is asked of one version, and how it is parted among replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from mainspring_evaluator.domain.items import Prompt, answer_key
from mainspring_evaluator.domain.suites import Budget, Price, Retrieval, Sampling
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import NO_UNIT, ServedUnit


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


@dataclass(frozen=True)
class Inquiry:
    """Many questions to one version, all asked the same way.

    Attributes:
        version: Who is asked.
        prompts: The questions.
        sampling: How answers are generated, where what goes with the version says nothing else.
        context: Passages to put before every question.
        timed: Whether the first token is watched for.
        numbers: What the questions are called in messages; empty for their places.
    """

    version: Version
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    context: Retrieval | None = None
    timed: bool = False
    numbers: tuple[int, ...] = ()

    @property
    def applied_sampling(self) -> Sampling:
        """The sampling with the word of what goes with the version."""
        return self.sampling.under(self.version.unit)

    @property
    def keys(self) -> list[str]:
        """Under what the answers are kept, in the questions' order."""
        identity, sampling = self.version.identity, self.applied_sampling
        return [
            answer_key(identity, prompt, sampling, context=self.context, timed=self.timed) for prompt in self.prompts
        ]

    def part(self, indexes: Sequence[int]) -> Inquiry:
        """The same with some of the questions."""
        return replace(self, prompts=tuple(self.prompts[index] for index in indexes), numbers=tuple(indexes))


@dataclass(frozen=True)
class Bounds:
    """What all answers that are generated for one run may use together."""

    budget: Budget = field(default_factory=Budget)
    price: Price = field(default_factory=Price)

    def check(self, used: Use) -> None:
        """Raises `PreconditionFailed` (BUDGET_EXCEEDED) when more than that was used."""
        budget = self.budget
        cost = used.input_tokens / 1e6 * self.price.per_million_input_tokens
        cost += used.output_tokens / 1e6 * self.price.per_million_output_tokens
        if budget.max_generated_tokens and used.output_tokens > budget.max_generated_tokens:
            spent, bound = f"{used.output_tokens} tokens", f"{budget.max_generated_tokens}"
        elif budget.max_duration_s and used.elapsed_s > budget.max_duration_s:
            spent, bound = f"{used.elapsed_s:.0f} s", f"{budget.max_duration_s:g}"
        elif budget.max_cost and cost > budget.max_cost:
            spent, bound = f"answers for {cost:.3g}", f"{budget.max_cost:g}"
        else:
            return
        message = f"the run has used {spent}, its suite allows {bound}; what was answered is kept for the next run"
        raise PreconditionFailed("BUDGET_EXCEEDED", message)


@dataclass(frozen=True)
class Use:
    """What generating took so far: tokens, and the time since the first question was shared out, by one clock."""

    input_tokens: int = 0
    output_tokens: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Shard:
    """Some questions of a run that one replica asks at a time.

    Attributes:
        name: Unique; the work's key.
        run: Run that needs the answers.
        stage: What for: one of the systems that are measured, or a judge.
        inquiry: The questions.
        bounds: What the run may use.
    """

    name: str
    run: str
    stage: str
    inquiry: Inquiry
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class Tally:
    """How far a run's shards of one stage are.

    Attributes:
        open: Shards that are not finished.
        remaining: Questions in them without an answer.
        generated: Answers that were made; others were there.
        failure: Reason and message of a shard that cannot be finished; None while all can.
    """

    open: int = 0
    remaining: int = 0
    generated: int = 0
    failure: tuple[str, str] | None = None


def parts(count: int, size: int) -> list[range]:
    """So many questions in shards of at most `size`, as even as can be, in order."""
    shards = -(-count // size)
    bounds = [count * number // shards for number in range(shards + 1)] if shards else []
    return [range(first, last) for first, last in pairwise(bounds)]
