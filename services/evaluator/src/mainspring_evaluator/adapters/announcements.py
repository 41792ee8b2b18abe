"""What the evaluator tells the others, as events in its outbox."""

from __future__ import annotations

from mainspring.events.v1 import evaluation_events_pb2 as events
from mainspring_evaluator.domain.drift import DriftReport
from mainspring_evaluator.domain.runs import EvaluationRun
from mainspring_eventkit.outbox import Outbox
from mainspring_svckit.mapping import fidelity_to_proto, scorer_failure_to_proto, scorer_result_to_proto


class OutboxAnnouncements:
    """`Announcements` in the outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def completed(self, run: EvaluationRun) -> None:
        assert run.subjects is not None
        assert run.findings is not None
        event = events.EvaluationRunCompleted(
            evaluation_run=run.name,
            evaluation_suite=run.suite.name,
            suite_sha256=run.suite.sha256,
            candidate=run.candidate,
            candidate_manifest_sha256=run.subjects.candidate_manifest_sha256,
            baseline=run.subjects.baseline,
            baseline_manifest_sha256=run.subjects.baseline_manifest_sha256,
            dataset_version=run.subjects.dataset_version,
            dataset_root_sha256=run.subjects.dataset_root_sha256,
            results=[scorer_result_to_proto(result) for result in run.findings.results],
            items=run.findings.items,
            fidelity=fidelity_to_proto(run.findings.fidelity),
            scorer_failures=[scorer_failure_to_proto(failure) for failure in run.findings.failures],
            suite_version=run.suite.version,
            candidate_unit_sha256=run.subjects.candidate_unit.sha256,
            baseline_unit_sha256=run.subjects.baseline_unit.sha256 if run.subjects.baseline else "",
            judge_model_versions=dict.fromkeys(judge.model_version for judge in run.findings.judges),
        )
        await self._outbox.emit(event, cycle=run.cycle)

    async def drifted(self, model: str, report: DriftReport) -> None:
        event = events.EvaluationDriftDetected(
            drift_report=report.name, model=model, model_version=report.model_version, signals=report.alarms
        )
        await self._outbox.emit(event)

    async def failed(self, run: EvaluationRun) -> None:
        event = events.EvaluationRunFailed(
            evaluation_run=run.name, candidate=run.candidate, reason=run.error_reason, message=run.error_message
        )
        await self._outbox.emit(event, cycle=run.cycle)
