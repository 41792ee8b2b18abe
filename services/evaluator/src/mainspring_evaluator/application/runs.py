"""Use cases of suites and of runs' beginning and end; `evaluation` does what lies between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mainspring_evaluator.application.observing import FAITHFULNESS, JUDGED, PRECISION, RECALL, SIMILARITY
from mainspring_evaluator.application.ports import Ports
from mainspring_evaluator.application.sharing import end_shards
from mainspring_evaluator.domain.items import EvaluationItem
from mainspring_evaluator.domain.runs import EvaluationRun, Findings, RunState
from mainspring_evaluator.domain.suites import EvaluationSuite, Price, SuiteVersion
from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.names import (
    DatasetVersionName,
    EvaluationRunName,
    EvaluationSuiteName,
    ModelName,
    ModelVersionName,
)
from mainspring_svckit.repository import Stored, require

RUN_WORK = "evaluation-run"
RELEASE_WORK = "evaluation-release"


class Suites:
    """Use cases of suites."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def put(self, suite: EvaluationSuite, *, etag: str, allow_missing: bool) -> Stored[EvaluationSuite]:
        """Writes a suite.

        Raises:
            InvalidInput: UNKNOWN_SCORER; SUITE_INVALID, a scorer lacks what it needs; or a name is malformed.
            NotFound: It is missing and `allow_missing` is not set.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        EvaluationSuiteName.parse(suite.name, "evaluation_suite.name")
        self._check(suite)
        ports = self._ports
        async with ports.transactions.transaction():
            if not allow_missing:
                await require(ports.suites, "EvaluationSuite", suite.name)
            before = await ports.suites.get(suite.name, lock=True)
            if before is not None and before.value.sha256 == suite.sha256:
                return await ports.suites.put(replace(suite, version=before.value.version), etag=etag)
            counted = replace(suite, version=before.value.version + 1 if before is not None else 1)
            stored = await ports.suites.put(counted, etag=etag)
            name = f"{suite.name}/versions/{counted.version}"
            await ports.suite_versions.add(SuiteVersion(name, counted, ports.clock.now()))
            return stored

    def _check(self, suite: EvaluationSuite) -> None:
        ModelName.parse(suite.model, "evaluation_suite.model")
        datasets = {f"sources[{index}].dataset": source.dataset_version for index, source in enumerate(suite.sources)}
        for field, version in {"dataset_version": suite.dataset_version, **datasets}.items():
            if version:
                DatasetVersionName.parse(version, f"evaluation_suite.{field}")
        known = self._ports.scoring.names
        unknown = [
            FieldViolation(f"evaluation_suite.scorers[{index}]", f"there is no scorer {name!r}")
            for index, name in enumerate(suite.scorers)
            if name not in known
        ]
        if unknown:
            message = f"{unknown[0].description}; there are {', '.join(known)}"
            raise InvalidInput(message, reason="UNKNOWN_SCORER", violations=unknown)
        if lacking := list(_lacking(suite)):
            message = "; ".join(f"{violation.field}: {violation.description}" for violation in lacking)
            raise InvalidInput(message, reason="SUITE_INVALID", violations=lacking)


def _lacking(suite: EvaluationSuite) -> Iterator[FieldViolation]:
    """What scorers need and the suite does not say, and names that are given twice."""
    needs = {
        "json_schema": ("json_schema", suite.json_schema),
        "cost": ("price", suite.price != Price()),
        SIMILARITY: ("embedding_model_version", suite.embedding_model_version),
        **dict.fromkeys(JUDGED, ("judges", suite.judges)),
    }
    for name in suite.scorers:
        field, given = needs.get(name, ("", True))
        if not given:
            yield FieldViolation(f"evaluation_suite.{field}", f"the scorer {name} needs it")
    if suite.budget.max_cost and suite.price == Price():
        yield FieldViolation("evaluation_suite.price", "budget.max_cost needs it")
    if suite.context is None:
        for name in {FAITHFULNESS, PRECISION, RECALL} & set(suite.scorers):
            yield FieldViolation("evaluation_suite.context", f"the scorer {name} needs it")
    if suite.sources and suite.dataset_version:
        yield FieldViolation("evaluation_suite.dataset_version", "give either it or sources")
    judges = suite.judges.judges if suite.judges is not None else ()
    named = {
        "sources": [source.task for source in suite.sources],
        "slices": [part.id for part in suite.slices],
        "judges.judges": [judge.id for judge in judges],
    }
    for field, names in named.items():
        for name in {name for name in names if names.count(name) > 1}:
            yield FieldViolation(f"evaluation_suite.{field}", f"{name!r} is given twice")


class Runs:
    """Use cases that begin and end runs."""

    def __init__(self, ports: Ports, *, release_delay_s: float) -> None:
        """Takes the outside, and how long after an end that cuts workers short models are let go: one hears of it when
        it next renews its lease, and until then might still ask for one.
        """
        self._ports, self._release_delay_s = ports, release_delay_s

    async def create(self, suite: str, candidate: str, baseline: str = "") -> EvaluationRun:
        """Queues a run that somebody asked for.

        Raises:
            NotFound: There is no such suite.
            InvalidInput: A version's name is malformed.
        """
        ModelVersionName.parse(candidate, "candidate")
        if baseline:
            ModelVersionName.parse(baseline, "baseline")
        async with self._ports.transactions.transaction():
            found = await require(self._ports.suites, "EvaluationSuite", suite)
            return await self._queue(found.value, candidate, wanted_baseline=baseline)

    async def react(self, model: str, candidate: str, cycle: str) -> list[EvaluationRun]:
        """Queues a run for each suite of a model that has a new version."""
        async with self._ports.transactions.transaction():
            suites = await self._ports.suites.find("model", model)
            return [await self._queue(suite, candidate, cycle=cycle) for suite in suites]

    async def cancel(self, name: str) -> EvaluationRun:
        """Ends a run that nobody wants any more.

        Raises:
            NotFound: There is no such run.
            IllegalTransition: It has ended.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            # The queue's row first and then the run's, as a worker does: else the two could wait for each other.
            await ports.work.cancel(RUN_WORK, name)
            run = (await require(ports.runs, "EvaluationRun", name, lock=True)).value.cancelled(ports.clock.now())
            return await self._end(run)

    async def succeed(self, name: str, findings: Findings, items: Sequence[EvaluationItem]) -> None:
        """Records what a run found, and tells the others. Joins the ambient transaction."""
        ports = self._ports
        run = (await require(ports.runs, "EvaluationRun", name, lock=True)).value
        await ports.items.add_all(items)
        run = await self._end(run.succeeded(findings, ports.clock.now()))
        await ports.announcements.completed(run)

    async def give_up(self, name: str, reason: str, message: str) -> None:
        """Records why a run cannot end, and tells the others. Joins the ambient transaction."""
        now = self._ports.clock.now()
        run = (await require(self._ports.runs, "EvaluationRun", name, lock=True)).value.started(now)
        run = await self._end(run.failed(reason, message, now))
        await self._ports.announcements.failed(run)

    async def release(self, name: str) -> None:
        """Lets go of the models that a run held; safe to repeat.

        Raises:
            Unavailable: The serving plane cannot be asked now.
        """
        await self._ports.inference.let_go(name)

    async def _queue(
        self, suite: EvaluationSuite, candidate: str, *, wanted_baseline: str = "", cycle: str = ""
    ) -> EvaluationRun:
        project = EvaluationSuiteName.parse(suite.name).project
        run = EvaluationRun(
            name=str(EvaluationRunName(project, self._ports.new_id())),
            suite=suite,
            candidate=candidate,
            create_time=self._ports.clock.now(),
            wanted_baseline=wanted_baseline,
            cycle=cycle,
        )
        stored = await self._ports.runs.add(run)
        await self._ports.work.enqueue(RUN_WORK, run.name)
        return stored.value

    async def _end(self, run: EvaluationRun) -> EvaluationRun:
        ports = self._ports
        await ports.runs.put(run)
        cut_short = await end_shards(ports, run.name) or run.state is RunState.CANCELLED
        delay_s = self._release_delay_s if cut_short else 0.0
        await ports.work.enqueue(RELEASE_WORK, run.name, delay_s=delay_s)
        await ports.notifier.notify("watch", run.name)
        return run
