"""`Scoring` in a thread, with libraries that are loaded when they are first needed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from mainspring_evaluator.application.ports import Change, Compared, Measured
from mainspring_evaluator.domain.items import Item, Sample
from mainspring_evaluator.domain.power import holm
from mainspring_evaluator.domain.suites import DEFAULT_CONFIDENCE_LEVEL, DEFAULT_RESAMPLES, EvaluationSuite
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.logs import get_logger
from mainspring_svckit.values import ScorerFailure, ScorerResult, SliceResult

if TYPE_CHECKING:
    from mainspring_evaluator.adapters.resampling import Table
    from mainspring_evaluator.adapters.scorers.base import Scorer

NAMES = (
    "bleu",
    "chrf",
    "ter",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "rouge_lsum",
    "exact_match",
    "accuracy",
    "macro_f1",
    "token_f1",
    "json_schema",
    "answer_words",
    "empty_answers",
    "latency",
    "first_token_latency",
    "token_latency",
    "cost",
    "attack_success",
    "false_refusal",
    "embedding_similarity",
    "calibration_error",
    "perplexity",
    "choice_accuracy",
    "choice_accuracy_norm",
    "judge_rubric",
    "judge_preference",
    "faithfulness",
    "context_precision",
    "context_recall",
)
"""What comes with the evaluator, known without loading it; a test holds it equal to `scorers.SCORERS`."""
_PLUGINS = "mainspring.scorers"
log = get_logger(__name__)


class ThreadScoring:
    """`Scoring` by the table of scorers and the plug-ins that are installed."""

    @property
    def names(self) -> Sequence[str]:
        plugins = sorted(entry.name for entry in entry_points(group=_PLUGINS))
        return (*NAMES, *(name for name in plugins if name not in NAMES))

    async def prepare(self, suite: EvaluationSuite, samples: Sequence[Sample]) -> None:
        await asyncio.to_thread(_prepare, suite, samples)

    async def measure(
        self, suite: EvaluationSuite, candidate: Sequence[Sample], baseline: Sequence[Sample] | None
    ) -> Measured:
        unknown = [name for name in suite.scorers if name not in self.names]
        if unknown:
            message = f"there is no scorer {unknown[0]!r}; there are {', '.join(self.names)}"
            raise PreconditionFailed("UNKNOWN_SCORER", message, {"scorer": unknown[0]})
        return await asyncio.to_thread(_measure, suite, candidate, baseline)

    async def compare(
        self, first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]
    ) -> Sequence[Compared]:
        return await asyncio.to_thread(_compare, first, second)

    async def changes(self, pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Sequence[Change]:
        return await asyncio.to_thread(_changes, pairs)


def _prepare(suite: EvaluationSuite, samples: Sequence[Sample]) -> None:
    """Lets the scorers that remember what they counted count it now; one that fails says so in `_measure`."""
    import_module("mainspring_evaluator.adapters.resampling")
    from mainspring_evaluator.adapters.scorers import make
    from mainspring_evaluator.adapters.scorers.base import Setup
    from mainspring_evaluator.adapters.scorers.overlap import REMEMBERED

    for name in REMEMBERED.intersection(suite.scorers):
        with suppress(Exception):
            scorer = make(Setup(name, suite, [sample.item for sample in samples]))
            for sample in samples:
                scorer.statistics(sample)


def _changes(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Sequence[Change]:
    from mainspring_evaluator.adapters.resampling import permutation_test

    return [
        Change(math.fsum(before) / len(before), math.fsum(now) / len(now), permutation_test(before, now))
        for before, now in pairs
    ]


def _compare(first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]) -> Sequence[Compared]:
    import numpy as np

    from mainspring_evaluator.adapters.resampling import Means, Table, estimates, paired_test

    common = [asked for asked in first if asked in second]
    names = sorted({name for asked in common for name in first[asked]} & {n for asked in common for n in second[asked]})
    found: list[Compared] = []
    for name in names:
        pairs = [(first[k][name], second[k][name]) for k in common if name in first[k] and name in second[k]]
        if not pairs:
            continue
        own, other = (np.array([[pair[side], 1.0] for pair in pairs]) for side in (1, 0))
        table = Table(Means(), (own, other))
        (of_all,) = estimates([table], resamples=DEFAULT_RESAMPLES, confidence_level=DEFAULT_CONFIDENCE_LEVEL)
        assert of_all.baseline is not None
        assert of_all.difference is not None
        found.append(
            Compared(
                name,
                of_all.baseline.value,
                of_all.candidate.value,
                of_all.difference,
                paired_test(table, rounds=DEFAULT_RESAMPLES)[1],
                sum(b > a for a, b in pairs),
                sum(a > b for a, b in pairs),
                sum(a == b for a, b in pairs),
            )
        )
    return found


class _Unusable(Exception):
    """A scorer that cannot be applied; `reason` is stable."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class _Applied:
    """A scorer with its tables and the items' scores by system (None where it cannot be applied)."""

    name: str
    scorer: Scorer
    table: Table
    item_scores: tuple[tuple[float | None, ...], ...]


def _measure(suite: EvaluationSuite, candidate: Sequence[Sample], baseline: Sequence[Sample] | None) -> Measured:
    systems = [candidate] if baseline is None else [candidate, baseline]
    items = [sample.item for sample in candidate]
    applied, failures = list[_Applied](), list[ScorerFailure]()
    for name in suite.scorers:
        try:
            applied.append(_apply(name, suite, items, systems))
        except _Unusable as err:
            failures.append(ScorerFailure(name, err.reason, str(err)))
        except Exception as err:  # noqa: BLE001 - a plug-in may raise anything; it costs its own result and no other.
            # What it says may quote prompts, so it goes into the project's own run and not into the log.
            log.warning("scorer_failed", scorer=name, error=type(err).__name__)
            failures.append(ScorerFailure(name, "SCORER_FAILED", f"{type(err).__name__}: {err}"[:1_000]))
    results = _results(suite, items, applied)
    return Measured(
        tuple(results),
        tuple(failures),
        *(_by_item(applied, system, len(items)) if system < len(systems) else () for system in (0, 1)),
    )


def _apply(name: str, suite: EvaluationSuite, items: Sequence[Item], systems: Sequence[Sequence[Sample]]) -> _Applied:
    import numpy as np

    from mainspring_evaluator.adapters.resampling import Table
    from mainspring_evaluator.adapters.scorers import make
    from mainspring_evaluator.adapters.scorers.base import Setup

    scorer = make(Setup(name, suite, items))
    said = [[scorer.statistics(sample) for sample in samples] for samples in systems]
    usable = [all(of_item is not None for of_item in of_systems) for of_systems in zip(*said, strict=True)]
    if not any(usable):
        message = f"{name} can be applied to none of the items; they lack what it needs, such as references"
        raise _Unusable("NOTHING_TO_SCORE", message)
    width = len(next(of_item for of_item in said[0] if of_item is not None))
    blocks: list[Any] = []
    for of_items in said:
        block = np.zeros((len(items), width + 1))
        for index, of_item in enumerate(of_items):
            if usable[index] and of_item is not None:
                block[index, :-1], block[index, -1] = of_item, 1
        if not np.isfinite(block).all():
            index = int(np.argmin(np.isfinite(block).all(axis=1)))
            raise _Unusable("SCORE_NOT_FINITE", f"{name} gave item {index} a score that is no finite number")
        blocks.append(block)
    scores = tuple(
        tuple(scorer.item_score(row[:-1]) if usable[index] else None for index, row in enumerate(block.tolist()))
        for block in blocks
    )
    if not all(math.isfinite(score) for of_system in scores for score in of_system if score is not None):
        raise _Unusable("SCORE_NOT_FINITE", f"{name} gave an item a score that is no finite number")
    return _Applied(name, scorer, Table(scorer, tuple(blocks)), scores)


def _results(suite: EvaluationSuite, items: Sequence[Item], applied: Sequence[_Applied]) -> list[ScorerResult]:
    from mainspring_evaluator.adapters.resampling import SEED, detectable_effect, estimates, paired_test

    if not applied:
        return []
    resamples, level = suite.bootstrap_resamples, suite.confidence_level
    found = estimates([each.table for each in applied], resamples=resamples, confidence_level=level)
    compared = len(applied[0].table.systems) == 2
    tests = [paired_test(each.table, rounds=resamples) if compared else ("", 0.0) for each in applied]
    adjusted = holm([p_value for _, p_value in tests]) if compared else [0.0] * len(applied)
    by_slice = _slices(suite, items, applied)
    return [
        ScorerResult(
            each.name,
            f"{each.scorer.signature}|bs:{resamples}|seed:{SEED}",
            of_all.candidate,
            of_all.baseline,
            of_all.difference,
            of_all.p_value,
            lower_is_better=each.scorer.lower_is_better,
            test=test,
            test_p_value=p_value,
            adjusted_p_value=corrected,
            minimum_detectable_effect=detectable_effect(of_all.standard_error, level) if compared else 0.0,
            items=each.table.items,
            slices=tuple(by_slice[index]),
        )
        for index, (each, of_all, (test, p_value), corrected) in enumerate(
            zip(applied, found, tests, adjusted, strict=True)
        )
    ]


def _slices(suite: EvaluationSuite, items: Sequence[Item], applied: Sequence[_Applied]) -> list[list[SliceResult]]:
    """What each scorer says of each slice that it can be applied to."""
    from mainspring_evaluator.adapters.resampling import estimates

    tasks = [f"task:{source.task}" for source in suite.sources] if len(suite.sources) > 1 else []
    members: dict[str, list[int]] = {name: [] for name in (*(part.id for part in suite.slices), *tasks)}
    for index, item in enumerate(items):
        for name in (*item.slices, f"task:{item.task}"):
            if name in members:
                members[name].append(index)
    found: list[list[SliceResult]] = [[] for _ in applied]
    for name, rows in members.items():
        tables = [each.table.of(rows) for each in applied]
        enough = [table.items >= max(2, suite.min_slice_items) for table in tables]
        wanted = [table for table, is_enough in zip(tables, enough, strict=True) if is_enough]
        told = iter(
            estimates(wanted, resamples=suite.bootstrap_resamples, confidence_level=suite.confidence_level)
            if wanted
            else ()
        )
        for results, table, is_enough in zip(found, tables, enough, strict=True):
            if is_enough:
                of_slice = next(told)
                results.append(
                    SliceResult(
                        name,
                        table.items,
                        False,
                        of_slice.candidate,
                        of_slice.baseline,
                        of_slice.difference,
                        of_slice.p_value,
                    )
                )
            else:
                results.append(SliceResult(name, table.items, too_few_items=True))
    return found


def _by_item(applied: Sequence[_Applied], system: int, items: int) -> tuple[Mapping[str, float], ...]:
    """Scores of each item by scorer's name."""
    rows: list[dict[str, float]] = [{} for _ in range(items)]
    for each in applied:
        for row, score in zip(rows, each.item_scores[system], strict=True):
            if score is not None:
                row[each.name] = score
    return tuple(rows)
