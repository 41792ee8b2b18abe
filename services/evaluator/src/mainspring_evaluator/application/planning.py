"""What runs can show, and how two runs compare; reads only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mainspring_evaluator.application.ports import Compared, ItemPairs, Ports
from mainspring_evaluator.domain.power import (
    DEFAULT_POWER,
    items_needed,
    minimum_detectable_effect,
    standard_error_of,
)
from mainspring_evaluator.domain.runs import EvaluationRun
from mainspring_evaluator.domain.suites import DEFAULT_CONFIDENCE_LEVEL
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.names import EvaluationRunName, ProjectName
from mainspring_svckit.pagination import Page
from mainspring_svckit.repository import require


@dataclass(frozen=True)
class SampleSize:
    """What a number of items can show; as `mainspring.evaluation.v1.SampleSize`."""

    scorer: str
    standard_deviation: float
    items: int
    minimum_detectable_effect: float
    items_needed: int


@dataclass(frozen=True)
class SideBySide:
    """Two runs over the questions that both asked; `scorers` with the first page only."""

    scorers: Sequence[Compared]
    common_items: int
    pairs: ItemPairs


class Planning:
    """Use cases before and after runs."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def sample_sizes(
        self,
        parent: str,
        *,
        evaluation_run: str,
        standard_deviation: float,
        scorer: str,
        effect: float,
        items: int,
        power: float,
        confidence_level: float,
    ) -> list[SampleSize]:
        """What `items` show, and how many items `effect` needs, for each scorer of an earlier run or one deviation.

        Raises:
            NotFound: There is no such run.
            InvalidInput: The run is of another project, or has no such scorer.
            PreconditionFailed: RUN_NOT_COMPARED, it has no result with a baseline.
        """
        power, level = power or DEFAULT_POWER, confidence_level or DEFAULT_CONFIDENCE_LEVEL
        spreads = {"": (standard_deviation, items)}
        if evaluation_run:
            if EvaluationRunName.parse(evaluation_run).project != ProjectName.parse(parent).project:
                raise InvalidInput(f"{evaluation_run} is not of {parent}")
            spreads = {
                name: (deviation, items or measured)
                for name, (deviation, measured) in _spreads(await self._run(evaluation_run)).items()
                if scorer in {"", name}
            }
        if not spreads:
            raise InvalidInput(f"{evaluation_run} has no result of {scorer}")
        return [
            SampleSize(
                name,
                deviation,
                count,
                minimum_detectable_effect(deviation / math.sqrt(count), confidence_level=level, power=power)
                if count
                else 0.0,
                items_needed(deviation, effect, confidence_level=level, power=power) if effect and deviation else 0,
            )
            for name, (deviation, count) in spreads.items()
        ]

    async def side_by_side(self, first: str, second: str, page: Page) -> SideBySide:
        """Two runs' candidates over the questions that both were asked.

        Raises:
            NotFound: There is no such run.
            InvalidInput: They are of two projects.
            PreconditionFailed: RUN_NOT_COMPARED, they share no question.
        """
        if EvaluationRunName.parse(first, "first").project != EvaluationRunName.parse(second, "second").project:
            raise InvalidInput(f"{first} and {second} are of two projects")
        async with self._ports.transactions.transaction():
            for name in (first, second):
                await require(self._ports.runs, "EvaluationRun", name)
            scores = [await self._ports.items.scores(name) for name in (first, second)]
            pairs = await self._ports.items.pairs(first, second, page)
        common = scores[0].keys() & scores[1].keys()
        if not common:
            message = f"{first} and {second} share no question; compare runs that succeeded on the same data"
            raise PreconditionFailed("RUN_NOT_COMPARED", message)
        scorers = await self._ports.scoring.compare(*scores) if page.after is None else ()
        return SideBySide(scorers, len(common), pairs)

    async def _run(self, name: str) -> EvaluationRun:
        async with self._ports.transactions.transaction():
            return (await require(self._ports.runs, "EvaluationRun", name)).value


def _spreads(run: EvaluationRun) -> dict[str, tuple[float, int]]:
    """Deviation of one item's difference, and the items measured, by scorer; from the intervals, so that it holds for
    scores of the whole such as BLEU too.
    """
    results = run.findings.results if run.findings is not None else ()
    found: dict[str, tuple[float, int]] = {}
    for result in results:
        if result.difference is not None and run.findings is not None:
            count = result.items or run.findings.items
            error = standard_error_of(result.difference.low, result.difference.high, result.difference.confidence_level)
            found[result.scorer] = (error * math.sqrt(count), count)
    if not found:
        message = f"{run.name} has no result with a baseline; name a run that succeeded, or a standard_deviation"
        raise PreconditionFailed("RUN_NOT_COMPARED", message)
    return found
