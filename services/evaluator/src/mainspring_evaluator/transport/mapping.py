"""Runs and items between the evaluator's domain and `mainspring.evaluation.v1`; pure functions."""

from __future__ import annotations

from mainspring.evaluation.v1 import evaluation_service_pb2 as pb
from mainspring.evaluation.v1 import run_pb2
from mainspring_evaluator.application.ports import Compared
from mainspring_evaluator.domain.items import EvaluationItem, ItemFilter, Outcome
from mainspring_evaluator.domain.runs import EvaluationRun, JudgeReport, Latency, Subjects
from mainspring_svckit.mapping import (
    duration_to_proto,
    estimate_to_proto,
    failure_to_proto,
    fidelity_to_proto,
    messages_to_proto,
    progress_to_proto,
    scorer_failure_to_proto,
    scorer_result_to_proto,
    time_to_proto,
    unit_to_proto,
)

_NOTHING = Subjects("", "", "", "", "", "")


def run_to_proto(run: EvaluationRun) -> run_pb2.EvaluationRun:
    """Prints a run."""
    subjects, findings = run.subjects or _NOTHING, run.findings
    return run_pb2.EvaluationRun(
        name=run.name,
        evaluation_suite=run.suite.name,
        suite_sha256=run.suite.sha256,
        candidate=run.candidate,
        baseline=subjects.baseline or run.wanted_baseline,
        dataset_version=subjects.dataset_version or run.suite.dataset_version,
        state=run_pb2.EvaluationRun.State.Value(f"STATE_{run.state.value}"),
        progress=progress_to_proto(run.progress),
        results=[scorer_result_to_proto(result) for result in findings.results] if findings is not None else [],
        items=findings.items if findings is not None else 0,
        fidelity=fidelity_to_proto(findings.fidelity) if findings is not None else None,
        candidate_latency=_latency_to_proto(findings.latency) if findings is not None else None,
        error=failure_to_proto(run.error_reason, run.error_message),
        cycle=run.cycle,
        create_time=time_to_proto(run.create_time),
        start_time=time_to_proto(run.start_time),
        end_time=time_to_proto(run.end_time),
        suite_version=run.suite.version,
        scorer_failures=map(scorer_failure_to_proto, findings.failures) if findings is not None else [],
        judges=map(_judge_to_proto, findings.judges) if findings is not None else [],
        generated_answers=findings.generated_answers if findings is not None else 0,
        candidate_unit=unit_to_proto(subjects.candidate_unit),
        baseline_unit=unit_to_proto(subjects.baseline_unit),
    )


def _judge_to_proto(report: JudgeReport) -> run_pb2.JudgeReport:
    return run_pb2.JudgeReport(
        judge=report.judge,
        model_version=report.model_version,
        questions=report.questions,
        nonsense=report.nonsense,
        order_contradictions=report.order_contradictions,
        labels=report.labels,
        kappa=report.kappa,
        has_vote=report.has_vote,
        explanation=report.explanation,
    )


def item_to_proto(item: EvaluationItem) -> run_pb2.EvaluationItem:
    """Prints an item."""
    return run_pb2.EvaluationItem(
        index=item.index,
        messages=messages_to_proto(item.prompt),
        references=item.references,
        candidate_text=item.candidate_text,
        baseline_text=item.baseline_text,
        candidate_scores=item.candidate_scores,
        baseline_scores=item.baseline_scores,
        task=item.task,
        slices=item.slices,
    )


def pair_to_proto(first: EvaluationItem, second: EvaluationItem) -> run_pb2.EvaluationItemPair:
    """Prints what two candidates said to the same question."""
    return run_pb2.EvaluationItemPair(
        messages=messages_to_proto(first.prompt),
        references=first.references,
        first_text=first.candidate_text,
        second_text=second.candidate_text,
        first_scores=first.candidate_scores,
        second_scores=second.candidate_scores,
    )


def comparison_to_proto(compared: Compared) -> run_pb2.ScorerComparison:
    """Prints how two candidates compare."""
    return run_pb2.ScorerComparison(
        scorer=compared.scorer,
        first_mean=compared.first_mean,
        second_mean=compared.second_mean,
        difference=estimate_to_proto(compared.difference),
        p_value=compared.p_value,
        second_higher=compared.second_higher,
        first_higher=compared.first_higher,
        equal=compared.equal,
    )


def filter_from_proto(request: pb.ListEvaluationItemsRequest) -> ItemFilter:
    """Reads which items are wanted."""
    outcome = pb.ListEvaluationItemsRequest.Outcome.Name(request.outcome).removeprefix("OUTCOME_").lower()
    return ItemFilter(request.slice, request.contains, request.scorer, Outcome(outcome) if request.outcome else None)


def _latency_to_proto(latency: Latency) -> run_pb2.LatencySummary:
    return run_pb2.LatencySummary(p50=duration_to_proto(latency.p50_s), p95=duration_to_proto(latency.p95_s))
