"""The work of a run: resolve, read, hold, generate, compare, ask others, score."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.observing import (
    CALIBRATION,
    CHOICES,
    JUDGED,
    PERPLEXITY,
    SIMILARITY,
    Observed,
    Observing,
    Told,
)
from mainspring_evaluator.application.ports import Measured, Ports, VersionInfo
from mainspring_evaluator.application.reading import ItemReader
from mainspring_evaluator.application.runs import Runs
from mainspring_evaluator.application.sharing import Shared
from mainspring_evaluator.domain import fidelity
from mainspring_evaluator.domain.inquiries import Bounds, Inquiry, Tally, Version
from mainspring_evaluator.domain.items import Answer, EvaluationItem, Item, Sample, prompt_digest, storable
from mainspring_evaluator.domain.runs import (
    PROGRESS_UNIT,
    EvaluationRun,
    Findings,
    Latency,
    Subjects,
)
from mainspring_evaluator.domain.suites import Comparison, EvaluationSuite
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import EvaluationRunName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_svckit.values import Fidelity, Message, Progress, ServedUnit

PROBE_TOP = 200
_REPORT_EVERY_S = 1.0
_TIMED = frozenset({"first_token_latency", "token_latency"})
_STAGES = ("candidate", "baseline")
_OBSERVED = frozenset({SIMILARITY, CALIBRATION, PERPLEXITY, *CHOICES, *JUDGED})


class Evaluation:
    """Does runs. Everything may be repeated from the start; answers that are there are not generated again."""

    def __init__(self, ports: Ports, runs: Runs, generation: Generation) -> None:
        self._ports, self._runs, self._generation = ports, runs, generation
        self._reader, self._observing = ItemReader(ports), Observing(ports, generation)

    async def run(self, name: str, lease: Claim) -> None:
        """Does a run to its end.

        Raises:
            PreconditionFailed: It cannot end; the reason is one of the service's stable ones.
            Unavailable: Not now.
            LeaseLost: Another worker has it, or it was cancelled.
        """
        progress = _Reporter(self._ports, name, lease)
        run = await self._start(name, lease)
        candidate = await self._ports.catalogue.version(run.candidate)
        baseline = await self._baseline(run, candidate)
        run, items = await self._read(run, candidate, baseline, lease)
        assert run.subjects is not None
        asked = ((candidate, run.subjects.candidate_unit), (baseline, run.subjects.baseline_unit))
        shared = Shared(self._ports, self._generation, name, Bounds(run.suite.budget, run.suite.price), lease)
        systems = [
            _System(stage, _inquiry(run.suite, version, unit, items))
            for stage, (version, unit) in zip(_STAGES, asked, strict=True)
            if version is not None
        ]
        preparing = [self._preparing(run.suite, [], [])]  # While the models answer.
        await progress.enter("waiting for the models")
        for system in systems:
            system.known = await shared.want(system.stage, system.inquiry)
            progress.expect(system.stage, len(items), len(system.known))
        close: Fidelity | None = None
        for system in systems:
            if len(system.known) < len(items):
                await progress.enter(f"generating the {system.stage}'s answers")
            system.answers = await shared.collect(system.stage, system.inquiry, system.known, progress.hear)
            if system is systems[0]:
                preparing.append(self._preparing(run.suite, items, system.answers))
                close = await self._fidelity(name, candidate, progress)
        await asyncio.gather(*preparing)
        measured, told = await self._score(name, run.suite, items, systems, progress, shared)
        findings = Findings(
            measured.results,
            len(items),
            close,
            _latency(systems[0].answers),
            (*measured.failures, *told.failures),
            told.judges,
            await shared.generated(_STAGES),
        )
        findings.check()
        rows = _rows(name, items, [system.answers for system in systems], measured)
        async with lease.complete():
            await self._runs.succeed(name, findings, rows)

    def _preparing(
        self, suite: EvaluationSuite, items: Sequence[Item], answers: Sequence[Answer]
    ) -> asyncio.Task[None]:
        samples = [Sample(item, answer) for item, answer in zip(items, answers, strict=True)]
        return asyncio.create_task(self._ports.scoring.prepare(suite, samples))

    async def _score(
        self,
        name: str,
        suite: EvaluationSuite,
        items: Sequence[Item],
        systems: Sequence[_System],
        progress: _Reporter,
        shared: Shared,
    ) -> tuple[Measured, Told]:
        observed = [Observed(system.inquiry.version, system.answers) for system in systems]
        told = Told()
        if not _OBSERVED.isdisjoint(suite.scorers):
            await progress.enter("asking judges and embedding models")
            project = EvaluationRunName.parse(name).project
            told = await self._observing.observe(
                project, name, suite, items, observed, ask=shared.ask, check=shared.check
            )
        await progress.enter("scoring")
        failed = {failure.scorer for failure in told.failures}
        applied = replace(suite, scorers=tuple(scorer for scorer in suite.scorers if scorer not in failed))
        own, *others = (
            [
                Sample(item, answer, figures)
                for item, answer, figures in zip(items, system.answers, system.figures, strict=True)
            ]
            for system in observed
        )
        return await self._ports.scoring.measure(applied, own, others[0] if others else None), told

    async def _start(self, name: str, lease: Claim) -> EvaluationRun:
        ports = self._ports
        async with lease.transaction():
            run = (await require(ports.runs, "EvaluationRun", name, lock=True)).value.started(ports.clock.now())
            await ports.runs.put(run)
            await ports.notifier.notify("watch", name)
        return run

    async def _baseline(self, run: EvaluationRun, candidate: VersionInfo) -> VersionInfo | None:
        """What to compare with: as resolved before, as wished, or as the suite says."""
        if run.subjects is not None:
            name = run.subjects.baseline
        elif run.wanted_baseline:
            name = run.wanted_baseline
        elif run.suite.comparison is Comparison.PARENT:
            name = candidate.parent or candidate.base
        else:
            name = await self._ports.catalogue.released_version(candidate.model) or candidate.base
        return await self._ports.catalogue.version(name) if name else None

    async def _read(
        self, run: EvaluationRun, candidate: VersionInfo, baseline: VersionInfo | None, lease: Claim
    ) -> tuple[EvaluationRun, tuple[Item, ...]]:
        ports = self._ports
        read = await self._reader.read(run.suite, candidate)
        units = await self._units(run, candidate, baseline)
        subjects = Subjects(
            candidate_manifest_sha256=candidate.manifest_sha256,
            baseline=baseline.name if baseline is not None else "",
            baseline_manifest_sha256=baseline.manifest_sha256 if baseline is not None else "",
            dataset_version=read.dataset_version,
            dataset_root_sha256=read.root_sha256,
            cycle=run.cycle or candidate.cycle,
            candidate_unit=units[0],
            baseline_unit=units[1],
        )
        async with lease.transaction():
            run = (await require(ports.runs, "EvaluationRun", run.name, lock=True)).value.resolved(subjects)
            await ports.runs.put(run)
        return run, read.items

    async def _units(
        self, run: EvaluationRun, candidate: VersionInfo, baseline: VersionInfo | None
    ) -> tuple[ServedUnit, ServedUnit]:
        """What both are asked with, as resolved before or as it stands now: the candidate with what its release would
        name, the baseline with what it serves with. One that does not serve is asked as the candidate is, so that the
        weights alone differ.
        """
        if run.subjects is not None:
            return run.subjects.candidate_unit, run.subjects.baseline_unit
        units = await self._ports.catalogue.units(candidate.model)
        serves = baseline is not None and baseline.name == units.active_version
        return units.next, units.active if serves else units.next

    async def _fidelity(self, name: str, candidate: VersionInfo, progress: _Reporter) -> Fidelity | None:
        """How close the engine comes to the candidate's probe; None when it has none."""
        if candidate.probe is None:
            return None
        await progress.enter("comparing the engine with the reference")
        await self._ports.inference.hold(candidate.name, name)
        project = EvaluationRunName.parse(name).project
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
class _System:
    """A version that is measured: what it is asked, the answers that were there, and, later, all of them."""

    stage: str
    inquiry: Inquiry
    known: Mapping[int, Answer] = field(default_factory=dict[int, Answer])
    answers: Sequence[Answer] = ()


@dataclass
class _Reporter:
    """Writes a run's progress, at most once a second, through its lease: a worker that lost it stops here."""

    ports: Ports
    name: str
    lease: Claim

    def __post_init__(self) -> None:
        self._progress = Progress(unit=PROGRESS_UNIT)
        self._remaining: dict[str, int] = {}
        self._began_with = 0
        self._began_at: datetime | None = None
        self._written_at: datetime | None = None

    def expect(self, stage: str, total: int, done: int) -> None:
        """Says how much there is to do for one stage, and how much of it was done before."""
        self._remaining[stage] = total - done
        self._began_with += done
        self._progress = replace(self._progress, done=self._progress.done + done, total=self._progress.total + total)

    async def enter(self, phase: str) -> None:
        """Says what happens now."""
        self._progress = replace(self._progress, phase=phase, remaining_s=self._remaining_s())
        self._began_at = self._began_at or self.ports.clock.now()
        await self._write()

    async def hear(self, tallies: Mapping[str, Tally]) -> None:
        """Counts what is left, whoever does it."""
        for stage in self._remaining.keys() & tallies.keys():
            self._remaining[stage] = tallies[stage].remaining
        self._progress = replace(self._progress, done=self._progress.total - sum(self._remaining.values()))
        now = self.ports.clock.now()
        if self._written_at is None or (now - self._written_at).total_seconds() >= _REPORT_EVERY_S:
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


def _inquiry(suite: EvaluationSuite, version: VersionInfo, unit: ServedUnit, items: Sequence[Item]) -> Inquiry:
    return Inquiry(
        Version(version.name, version.manifest_sha256, unit),
        tuple(item.prompt for item in items),
        suite.sampling,
        suite.context,
        timed=not _TIMED.isdisjoint(suite.scorers),
    )


def _rows(
    run: str, items: Sequence[Item], answers: Sequence[Sequence[Answer]], measured: Measured
) -> list[EvaluationItem]:
    candidate, baseline = answers[0], answers[1] if len(answers) > 1 else None
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
            task=item.task,
            slices=item.slices,
            prompt_sha256=prompt_digest(item.prompt),
        )
        for index, item in enumerate(items)
    ]
