"""Suites between the evaluator's domain and `mainspring.evaluation.v1`; pure functions."""

from __future__ import annotations

from mainspring.data.v1 import dataset_pb2
from mainspring.evaluation.v1 import suite_pb2
from mainspring.inference.v1 import answer_pb2
from mainspring_evaluator.domain.suites import (
    DEFAULT_CONFIDENCE_LEVEL,
    DEFAULT_MAX_NONSENSE,
    DEFAULT_MAX_OUTPUT_TOKENS,
    DEFAULT_MIN_KAPPA,
    DEFAULT_MIN_LABELS,
    DEFAULT_MIN_SLICE_ITEMS,
    DEFAULT_RESAMPLES,
    Budget,
    Comparison,
    EvaluationSuite,
    ItemSource,
    Judge,
    JudgePanel,
    Price,
    Retrieval,
    SafetySet,
    Sampling,
    Slice,
    Split,
    SuiteVersion,
)
from mainspring_svckit.mapping import duration_to_proto, time_to_proto
from mainspring_svckit.repository import Stored

_SPLITS = {
    dataset_pb2.SPLIT_UNSPECIFIED: Split.TEST,
    dataset_pb2.SPLIT_TRAIN: Split.TRAIN,
    dataset_pb2.SPLIT_VALIDATION: Split.VALIDATION,
    dataset_pb2.SPLIT_TEST: Split.TEST,
}


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
        sources=tuple(map(_source_from_proto, message.sources)),
        slices=tuple(
            Slice(part.id, part.prompt_contains, part.min_prompt_words, part.max_prompt_words)
            for part in message.slices
        ),
        min_slice_items=message.min_slice_items or DEFAULT_MIN_SLICE_ITEMS,
        json_schema=message.json_schema,
        embedding_model_version=message.embedding_model_version,
        judges=_panel_from_proto(message.judges) if message.HasField("judges") else None,
        budget=Budget(
            message.budget.max_generated_tokens,
            message.budget.max_duration.ToNanoseconds() / 1e9,
            message.budget.max_cost,
        ),
        price=Price(message.price.per_million_input_tokens, message.price.per_million_output_tokens),
        allow_training_overlap=message.allow_training_overlap,
        comparison=Comparison.PARENT if message.comparison == suite_pb2.COMPARISON_PARENT else Comparison.CHAMPION,
        context=Retrieval(message.context.collection, message.context.top_k) if message.HasField("context") else None,
    )


def _source_from_proto(message: suite_pb2.ItemSource) -> ItemSource:
    kind = message.WhichOneof("source")
    safety = suite_pb2.SafetyItems.Set.Name(message.safety.set).removeprefix("SET_").lower()
    return ItemSource(
        message.task,
        message.instruction,
        dataset_version=message.dataset.dataset_version,
        split=_SPLITS[message.dataset.split],
        safety_set=SafetySet(safety) if kind == "safety" else None,
        harness_path=message.harness.path,
        max_items=message.max_items,
    )


def _panel_from_proto(message: suite_pb2.JudgePanel) -> JudgePanel:
    return JudgePanel(
        tuple(Judge(judge.id, judge.model_version) for judge in message.judges),
        message.rubric,
        message.min_kappa if message.HasField("min_kappa") else DEFAULT_MIN_KAPPA,
        message.min_labels or DEFAULT_MIN_LABELS,
        message.max_nonsense if message.HasField("max_nonsense") else DEFAULT_MAX_NONSENSE,
    )


def suite_to_proto(stored: Stored[EvaluationSuite]) -> suite_pb2.EvaluationSuite:
    """Prints a suite."""
    message = _said_by(stored.value)
    message.etag = stored.etag
    if (updated := time_to_proto(stored.update_time)) is not None:
        message.update_time.CopyFrom(updated)
    return message


def suite_version_to_proto(version: SuiteVersion) -> suite_pb2.EvaluationSuiteVersion:
    """Prints a version of a suite."""
    return suite_pb2.EvaluationSuiteVersion(
        name=version.name,
        sha256=version.suite.sha256,
        evaluation_suite=_said_by(version.suite),
        create_time=time_to_proto(version.create_time),
    )


def _said_by(suite: EvaluationSuite) -> suite_pb2.EvaluationSuite:
    message = suite_pb2.EvaluationSuite(
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
        version=suite.version,
        sources=map(_source_to_proto, suite.sources),
        slices=[
            suite_pb2.Slice(
                id=part.id,
                prompt_contains=part.prompt_contains,
                min_prompt_words=part.min_prompt_words,
                max_prompt_words=part.max_prompt_words,
            )
            for part in suite.slices
        ],
        min_slice_items=suite.min_slice_items,
        json_schema=suite.json_schema,
        embedding_model_version=suite.embedding_model_version,
        allow_training_overlap=suite.allow_training_overlap,
        comparison=suite_pb2.Comparison.Value(f"COMPARISON_{suite.comparison.name}"),
    )
    if suite.judges is not None:
        message.judges.CopyFrom(_panel_to_proto(suite.judges))
    if suite.budget != Budget():
        message.budget.max_generated_tokens = suite.budget.max_generated_tokens
        message.budget.max_cost = suite.budget.max_cost
        if suite.budget.max_duration_s:
            message.budget.max_duration.CopyFrom(duration_to_proto(suite.budget.max_duration_s))
    if suite.price != Price():
        message.price.per_million_input_tokens = suite.price.per_million_input_tokens
        message.price.per_million_output_tokens = suite.price.per_million_output_tokens
    if suite.context is not None:
        context = answer_pb2.ContextRequest(collection=suite.context.collection, top_k=suite.context.top_k)
        message.context.CopyFrom(context)
    return message


def _source_to_proto(source: ItemSource) -> suite_pb2.ItemSource:
    message = suite_pb2.ItemSource(task=source.task, instruction=source.instruction, max_items=source.max_items)
    if source.dataset_version:
        message.dataset.dataset_version = source.dataset_version
        message.dataset.split = dataset_pb2.Split.Value(f"SPLIT_{source.split.name}")
    elif source.safety_set is not None:
        message.safety.set = suite_pb2.SafetyItems.Set.Value(f"SET_{source.safety_set.name}")
    else:
        message.harness.path = source.harness_path
    return message


def _panel_to_proto(panel: JudgePanel) -> suite_pb2.JudgePanel:
    return suite_pb2.JudgePanel(
        judges=[suite_pb2.Judge(id=judge.id, model_version=judge.model_version) for judge in panel.judges],
        rubric=panel.rubric,
        min_kappa=panel.min_kappa,
        min_labels=panel.min_labels,
        max_nonsense=panel.max_nonsense,
    )
