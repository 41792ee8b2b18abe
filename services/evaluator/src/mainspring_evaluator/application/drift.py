"""Watching released versions: sampling what people ask, checking on schedule, telling of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.observing import PREFERENCE, Observed, Observing
from mainspring_evaluator.application.ports import Ports
from mainspring_evaluator.domain.drift import (
    APPROVAL,
    MIN_ITEMS,
    QUESTION_WORDS,
    SERVED_LATENCY,
    Asked,
    DriftMonitor,
    DriftReport,
    DriftSignal,
    Figures,
    is_worse,
)
from mainspring_evaluator.domain.inquiries import Inquiry, Version
from mainspring_evaluator.domain.items import Answer, Item, Sample
from mainspring_evaluator.domain.power import holm
from mainspring_evaluator.domain.suites import EvaluationSuite
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.names import DriftMonitorName, EvaluationSuiteName, ModelName, ModelVersionName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import Stored, require
from mainspring_svckit.values import Message

DRIFT_WORK = "drift-check"


class Traffic:
    """Keeps a sample of what released versions are asked, where somebody needs it."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def answered(self, asked: Asked) -> None:
        """A released version answered. Kept when a monitor watches its model, or a judge is to be compared with people.

        Joins the ambient transaction.
        """
        ports = self._ports
        watched = any(not monitor.paused for monitor in await ports.monitors.find("model", asked.model))
        if watched or any(suite.judges for suite in await ports.suites.find("model", asked.model)):
            await ports.traffic.add(asked)

    async def judged(self, answer: str, good: bool) -> None:
        """A person said what an answer is worth. Joins the ambient transaction."""
        await self._ports.traffic.judge(answer, good)


class Monitors:
    """Use cases of drift monitors."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def put(self, monitor: DriftMonitor, *, etag: str, allow_missing: bool) -> Stored[DriftMonitor]:
        """Writes a monitor, and plans its next check.

        Raises:
            InvalidInput: A name is malformed.
            NotFound: It is missing and `allow_missing` is not set, or there is no such suite.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        DriftMonitorName.parse(monitor.name, "drift_monitor.name")
        ModelName.parse(monitor.model, "drift_monitor.model")
        EvaluationSuiteName.parse(monitor.evaluation_suite, "drift_monitor.evaluation_suite")
        ports = self._ports
        async with ports.transactions.transaction():
            await require(ports.suites, "EvaluationSuite", monitor.evaluation_suite)
            before = await ports.monitors.get(monitor.name, lock=True)
            if before is None and not allow_missing:
                await require(ports.monitors, "DriftMonitor", monitor.name)
            if before is not None:
                monitor = replace(monitor, latest_report=before.value.latest_report, seen=before.value.seen)
            stored = await ports.monitors.put(monitor, etag=etag)
            if monitor.paused:
                await ports.work.cancel(DRIFT_WORK, monitor.name)
            else:
                await ports.work.enqueue(DRIFT_WORK, monitor.name, delay_s=monitor.interval_s)
            return stored

    async def check_now(self, name: str) -> Stored[DriftMonitor]:
        """Asks for a check.

        Raises:
            NotFound: There is no such monitor.
            PreconditionFailed: MONITOR_PAUSED.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            found = await require(ports.monitors, "DriftMonitor", name)
            if found.value.paused:
                raise PreconditionFailed("MONITOR_PAUSED", f"{name} is paused; write it with paused unset")
            await ports.work.enqueue(DRIFT_WORK, name)
            return found


class DriftChecks:
    """Does checks; safe to repeat, since nothing is written before the end."""

    def __init__(self, ports: Ports, generation: Generation) -> None:
        self._ports, self._generation = ports, generation
        self._observing = Observing(ports, generation)

    async def check(self, name: str, lease: Claim) -> None:
        """Does one check and plans the next.

        Raises:
            PreconditionFailed: The released version cannot be asked.
            Unavailable: Not now.
            LeaseLost: Another worker has it.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            monitor = (await require(ports.monitors, "DriftMonitor", name)).value
            suite = (await require(ports.suites, "EvaluationSuite", monitor.evaluation_suite)).value
        live = await ports.catalogue.released_version(monitor.model)
        async with ports.transactions.transaction():
            asked = await ports.traffic.newest(live, monitor.seen, monitor.sample_items) if live else ()
            reference = await ports.reports.reference(name, live)
        if len(asked) < min(MIN_ITEMS, monitor.sample_items):
            await self._end(monitor, None, lease)
            return
        try:
            figures = await self._measure(monitor, suite, live, asked)
        finally:
            await ports.inference.let_go(name)
        signals = await self._compare(monitor, reference, figures) if reference is not None else ()
        report = DriftReport(
            name="",
            monitor=name,
            number=0,
            model_version=live,
            items=len(asked),
            create_time=ports.clock.now(),
            reference=reference is None,
            signals=signals,
            figures=figures if reference is None else {},
        )
        await self._end(replace(monitor, seen=max(each.name for each in asked)), report, lease)

    async def put_off(self, name: str) -> None:
        """Plans the next check after one that could not be done. Joins the ambient transaction."""
        monitor = (await require(self._ports.monitors, "DriftMonitor", name)).value
        if not monitor.paused:
            await self._ports.work.enqueue(DRIFT_WORK, name, delay_s=monitor.interval_s)

    async def _measure(
        self, monitor: DriftMonitor, suite: EvaluationSuite, live: str, asked: Sequence[Asked]
    ) -> Mapping[str, Figures]:
        """Asks the released version anew, and scores what needs no references."""
        ports, project = self._ports, ModelVersionName.parse(live).project
        serving = await ports.catalogue.units(monitor.model)
        version = Version(live, (await ports.catalogue.version(live)).manifest_sha256, serving.active)
        prompts = tuple(tuple(Message(role, content) for role, content in each.messages) for each in asked)

        async def ask(_: str, inquiry: Inquiry) -> Sequence[Answer]:
            known = await self._generation.known(project, inquiry)
            if len(known) < len(inquiry.prompts):
                await ports.inference.hold(inquiry.version.name, monitor.name)
            return await self._generation.generate(project, inquiry, known=known)

        async def bounded_by_its_items() -> None:
            """No budget holds for a check."""

        answers = await ask("live", Inquiry(version, prompts, suite.sampling, suite.context))
        items = [Item(prompt, ()) for prompt in prompts]
        alone = replace(suite, scorers=tuple(name for name in suite.scorers if name != PREFERENCE), slices=())
        system = Observed(version, answers)
        told = await self._observing.observe(
            project, monitor.name, alone, items, [system], ask=ask, check=bounded_by_its_items
        )
        failed = {failure.scorer for failure in told.failures}
        alone = replace(alone, scorers=tuple(name for name in alone.scorers if name not in failed))
        samples = [
            Sample(item, answer, figures) for item, answer, figures in zip(items, answers, system.figures, strict=True)
        ]
        measured = await ports.scoring.measure(alone, samples, None)
        found = {
            result.scorer: Figures(
                tuple(scores[result.scorer] for scores in measured.candidate_scores if result.scorer in scores),
                result.lower_is_better,
            )
            for result in measured.results
        }
        found[QUESTION_WORDS] = Figures(tuple(float(len(item.question.split())) for item in items))
        found[SERVED_LATENCY] = Figures(tuple(each.latency_s for each in asked), lower_is_better=True)
        if judged := tuple(float(each.good) for each in asked if each.good is not None):
            found[APPROVAL] = Figures(judged)
        return found

    async def _compare(
        self, monitor: DriftMonitor, reference: DriftReport, figures: Mapping[str, Figures]
    ) -> tuple[DriftSignal, ...]:
        names = [name for name in figures if name in reference.figures]
        pairs = [(reference.figures[name].values, figures[name].values) for name in names]
        changes = await self._ports.scoring.changes(pairs)
        adjusted = holm([change.p_value for change in changes])
        return tuple(
            DriftSignal(
                name,
                change.reference_mean,
                change.current_mean,
                change.p_value,
                corrected,
                corrected < monitor.alpha
                and is_worse(
                    name,
                    change.reference_mean,
                    change.current_mean,
                    lower_is_better=figures[name].lower_is_better,
                ),
            )
            for name, change, corrected in zip(names, changes, adjusted, strict=True)
        )

    async def _end(self, monitor: DriftMonitor, report: DriftReport | None, lease: Claim) -> None:
        ports = self._ports
        async with lease.complete():
            current = (await require(ports.monitors, "DriftMonitor", monitor.name, lock=True)).value
            if report is not None:
                number = await ports.reports.count(monitor.name) + 1
                report = replace(report, name=f"{monitor.name}/reports/{number}", number=number)
                await ports.reports.add(report)
                current = current.reported(report.name, monitor.seen)
                await ports.monitors.put(current)
                if report.alarms:
                    await ports.announcements.drifted(monitor.model, report)
            if not current.paused:
                await ports.work.enqueue(DRIFT_WORK, monitor.name, delay_s=current.interval_s)
