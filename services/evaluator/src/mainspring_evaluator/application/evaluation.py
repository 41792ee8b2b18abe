"""The work of a run: resolve, read, hold, generate, compare, score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mainspring_evaluator.application.generation import Generation, Version
from mainspring_evaluator.application.ports import Measured, Ports, VersionInfo
from mainspring_evaluator.application.runs import Runs
from mainspring_evaluator.domain import fidelity
from mainspring_evaluator.domain.items import Answer, EvaluationItem, Item, ItemSelection, Message, storable
from mainspring_evaluator.domain.runs import (
    PROGRESS_UNIT,
    EvaluationRun,
    Findings,
    Latency,
    Subjects,
)
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import EvaluationRunName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_svckit.values import Fidelity, Progress

PROBE_TOP = 200
_REPORT_EVERY_S = 1.0


class Evaluation:
    """Does runs. Everything may be repeated from the start; answers that are there are not generated again."""

    def __init__(self, ports: Ports, runs: Runs, generation: Generation) -> None:
        self._ports, self._runs, self._generation = ports, runs, generation

    async def run(self, name: str, lease: Claim) -> None:
        """Does a run to its end.

        Raises:
            PreconditionFailed: It cannot end; the reason is one of the service's stable ones.
            Unavailable: Not now.
            LeaseLost: Another worker has it, or it was cancelled.
        """
        project = EvaluationRunName.parse(name).project
        progress = _Reporter(self._ports, name, lease)
        run = await self._start(name, lease)
        candidate = await self._ports.catalogue.version(run.candidate)
        baseline = await self._baseline(run, candidate)
        run, items = await self._read(run, candidate, baseline, lease)
        prompts, sampling = [item.prompt for item in items], run.suite.sampling
        first = Version(candidate.name, candidate.manifest_sha256)
        second = Version(baseline.name, baseline.manifest_sha256) if baseline is not None else None

        known_first = await self._generation.known(project, first, prompts, sampling)
        known_second = await self._generation.known(project, second, prompts, sampling) if second is not None else {}
        total = len(items) * (2 if second is not None else 1)
        await progress.begin(len(known_first) + len(known_second), total, "waiting for the candidate")
        if len(known_first) < len(items) or candidate.probe is not None:
            await self._ports.inference.hold(candidate.name, name)
        await progress.enter("generating the candidate's answers")
        candidate_answers = await self._generation.generate(
            project, first, prompts, sampling, known=known_first, after_each=progress.one_more
        )
        await progress.enter("comparing the engine with the reference")
        close = await self._fidelity(project, candidate)
        baseline_answers: list[Answer] | None = None
        if second is not None:
            await progress.enter("generating the baseline's answers")
            if len(known_second) < len(items):
                await self._ports.inference.hold(second.name, name)
            baseline_answers = await self._generation.generate(
                project, second, prompts, sampling, known=known_second, after_each=progress.one_more
            )
        await progress.enter("scoring")
        measured = await self._ports.scoring.measure(
            run.suite,
            items,
            [answer.text for answer in candidate_answers],
            [answer.text for answer in baseline_answers] if baseline_answers is not None else None,
        )
        findings = Findings(measured.results, len(items), close, _latency(candidate_answers))
        findings.check()
        rows = _rows(name, items, candidate_answers, baseline_answers, measured)
        async with lease.complete():
            await self._runs.succeed(name, findings, rows)

    async def _start(self, name: str, lease: Claim) -> EvaluationRun:
        ports = self._ports
        async with lease.transaction():
            run = (await require(ports.runs, "EvaluationRun", name, lock=True)).value.started(ports.clock.now())
            await ports.runs.put(run)
            await ports.notifier.notify("watch", name)
        return run

    async def _baseline(self, run: EvaluationRun, candidate: VersionInfo) -> VersionInfo | None:
        """What to compare with: as resolved before, as wished, what is released, or the candidate's foundation."""
        if run.subjects is not None:
            name = run.subjects.baseline
        else:
            released = await self._ports.catalogue.released_version(candidate.model)
            name = run.wanted_baseline or released or candidate.base
        return await self._ports.catalogue.version(name) if name else None

    async def _read(
        self, run: EvaluationRun, candidate: VersionInfo, baseline: VersionInfo | None, lease: Claim
    ) -> tuple[EvaluationRun, tuple[Item, ...]]:
        ports = self._ports
        dataset = run.suite.dataset_version or candidate.dataset_version
        if not dataset:
            message = (
                f"neither {run.suite.name} nor {candidate.name} names a dataset version;"
                " set dataset_version in the suite"
            )
            raise PreconditionFailed("NO_TEST_ROWS", message)
        split = await ports.datasets.test_split(dataset)
        selection = ItemSelection(run.suite.max_items)
        async for batch in split.rows:
            for messages in batch:
                selection.add(messages)
        items = selection.items()
        if not items:
            message = f"the test split of {dataset} has no rows; publish a version with rows in it"
            raise PreconditionFailed("NO_TEST_ROWS", message)
        subjects = Subjects(
            candidate_manifest_sha256=candidate.manifest_sha256,
            baseline=baseline.name if baseline is not None else "",
            baseline_manifest_sha256=baseline.manifest_sha256 if baseline is not None else "",
            dataset_version=dataset,
            dataset_root_sha256=split.root_sha256,
            cycle=run.cycle or candidate.cycle,
        )
        async with lease.transaction():
            run = (await require(ports.runs, "EvaluationRun", run.name, lock=True)).value.resolved(subjects)
            await ports.runs.put(run)
        return run, items

    async def _fidelity(self, project: str, candidate: VersionInfo) -> Fidelity | None:
        """How close the engine comes to the candidate's probe; None when it has none."""
        if candidate.probe is None:
            return None
        positions = fidelity.parse_probe(await self._ports.files.read(project, candidate.probe))
        said: dict[int, fidelity.Distribution] = {}

        async def ask(index: int) -> None:
            position = positions[index]
            said[index] = await self._generation.patiently(
                f"probe position {index}",
                lambda: self._ports.inference.next_tokens(candidate.name, position.prefix, PROBE_TOP),
            )
            if not said[index]:
                message = "the engine reports no probabilities of first tokens, so its fidelity cannot be measured"
                raise PreconditionFailed("INFERENCE_FAILED", message)

        await self._generation.each(range(len(positions)), ask)
        return fidelity.compare([(position.reference, said[index]) for index, position in enumerate(positions)])


@dataclass
class _Reporter:
    """Writes a run's progress, at most once a second, through its lease: a worker that lost it stops here."""

    ports: Ports
    name: str
    lease: Claim

    def __post_init__(self) -> None:
        self._progress = Progress(unit=PROGRESS_UNIT)
        self._began_with = 0
        self._began_at: datetime | None = None
        self._written_at: datetime | None = None

    async def begin(self, done: int, total: int, phase: str) -> None:
        """Says how much there is to do."""
        self._progress = Progress(done, total, PROGRESS_UNIT, phase)
        self._began_with = done
        await self._write()

    async def enter(self, phase: str) -> None:
        """Says what happens now."""
        self._progress = replace(self._progress, phase=phase, remaining_s=self._remaining_s())
        self._began_at = self._began_at or self.ports.clock.now()
        await self._write()

    async def one_more(self) -> None:
        """Counts an answer."""
        done = self._progress.done + 1
        self._progress = replace(self._progress, done=done)
        now = self.ports.clock.now()
        if self._written_at is None or (now - self._written_at).total_seconds() >= _REPORT_EVERY_S:
            self._written_at = now  # Set before the write, so that answers of that moment do not all write.
            self._progress = replace(self._progress, remaining_s=self._remaining_s())
            await self._write()

    def _remaining_s(self) -> float | None:
        made = self._progress.done - self._began_with
        if not made or self._began_at is None:
            return None
        elapsed_s = (self.ports.clock.now() - self._began_at).total_seconds()
        return elapsed_s / made * (self._progress.total - self._progress.done)

    async def _write(self) -> None:
        self._written_at = self.ports.clock.now()
        async with self.lease.transaction():
            run = (await require(self.ports.runs, "EvaluationRun", self.name, lock=True)).value
            await self.ports.runs.put(run.advanced(self._progress))
            await self.ports.notifier.notify("watch", self.name)


def _latency(answers: Sequence[Answer]) -> Latency:
    ordered = sorted(answer.latency_s for answer in answers)
    return Latency(p50_s=_quantile(ordered, 0.5), p95_s=_quantile(ordered, 0.95))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank quantile of values in order."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _rows(
    run: str,
    items: Sequence[Item],
    candidate: Sequence[Answer],
    baseline: Sequence[Answer] | None,
    measured: Measured,
) -> list[EvaluationItem]:
    return [
        EvaluationItem(
            name=f"{run}/items/{index}",
            run=run,
            index=index,
            prompt=tuple(Message(m.role, storable(m.content)) for m in item.prompt),
            references=tuple(map(storable, item.references)),
            candidate_text=storable(candidate[index].text),
            baseline_text=storable(baseline[index].text) if baseline is not None else "",
            candidate_scores=measured.candidate_scores[index],
            baseline_scores=measured.baseline_scores[index] if baseline is not None else {},
        )
        for index, item in enumerate(items)
    ]
