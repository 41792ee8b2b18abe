"""Between the evaluator's domain and `mainspring.evaluation.v1`; pure functions."""

from __future__ import annotations

from mainspring.common.v1 import chat_pb2
from mainspring.evaluation.v1 import run_pb2, suite_pb2
from mainspring_evaluator.domain.items import EvaluationItem
from mainspring_evaluator.domain.runs import EvaluationRun, Latency, Subjects
from mainspring_evaluator.domain.suites import (
    DEFAULT_CONFIDENCE_LEVEL,
    DEFAULT_MAX_OUTPUT_TOKENS,
    DEFAULT_RESAMPLES,
    EvaluationSuite,
    Sampling,
)
from mainspring_svckit.mapping import (
    duration_to_proto,
    failure_to_proto,
    fidelity_to_proto,
    progress_to_proto,
    scorer_result_to_proto,
    time_to_proto,
)
from mainspring_svckit.repository import Stored

_NOTHING = Subjects("", "", "", "", "", "")


def suite_from_proto(message: suite_pb2.EvaluationSuite) -> EvaluationSuite:
    """Reads a suite, with defaults for what is not set."""
    return EvaluationSuite(
        name=message.name,
        model=message.model,
        scorers=tuple(message.scorers),
        dataset_version=message.dataset_version,
        max_items=message.max_items,
        sampling=Sampling(
            max_output_tokens=message.sampling.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS,
            temperature=message.sampling.temperature,
            seed=message.sampling.seed,
        ),
        bootstrap_resamples=message.bootstrap_resamples or DEFAULT_RESAMPLES,
        confidence_level=message.confidence_level or DEFAULT_CONFIDENCE_LEVEL,
    )


def suite_to_proto(stored: Stored[EvaluationSuite]) -> suite_pb2.EvaluationSuite:
    """Prints a suite."""
    suite = stored.value
    return suite_pb2.EvaluationSuite(
        name=suite.name,
        model=suite.model,
        dataset_version=suite.dataset_version,
        scorers=suite.scorers,
        max_items=suite.max_items,
        sampling=suite_pb2.Sampling(
            max_output_tokens=suite.sampling.max_output_tokens,
            temperature=suite.sampling.temperature,
            seed=suite.sampling.seed,
        ),
        bootstrap_resamples=suite.bootstrap_resamples,
        confidence_level=suite.confidence_level,
        update_time=time_to_proto(stored.update_time),
        etag=stored.etag,
    )


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
    )


def item_to_proto(item: EvaluationItem) -> run_pb2.EvaluationItem:
    """Prints an item."""
    return run_pb2.EvaluationItem(
        index=item.index,
        messages=[
            chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.Role.Value(f"ROLE_{m.role.upper()}"), content=m.content)
            for m in item.prompt
        ],
        references=item.references,
        candidate_text=item.candidate_text,
        baseline_text=item.baseline_text,
        candidate_scores=item.candidate_scores,
        baseline_scores=item.baseline_scores,
    )


def _latency_to_proto(latency: Latency) -> run_pb2.LatencySummary:
    return run_pb2.LatencySummary(p50=duration_to_proto(latency.p50_s), p95=duration_to_proto(latency.p95_s))
