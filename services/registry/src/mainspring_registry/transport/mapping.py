"""Between the registry's domain and `mainspring.registry.v1`; pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from mainspring.registry.v1 import model_pb2, release_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring_registry.application.imports import CreateModelImport
from mainspring_registry.application.judging import Judgement
from mainspring_registry.domain.approvals import Approval
from mainspring_registry.domain.catalogue import Lineage, Model, ModelKind, ModelQuery, ModelVersion
from mainspring_registry.domain.cycles import Cycle
from mainspring_registry.domain.gate import GateDecision, RuleResult
from mainspring_registry.domain.history import HistoryEntry
from mainspring_registry.domain.imports import ModelImport
from mainspring_registry.domain.releases import Release
from mainspring_registry.transport.policies_mapping import serving_unit_to_proto
from mainspring_svckit.mapping import (
    artifact_to_proto,
    failure_to_proto,
    fidelity_to_proto,
    scorer_result_to_proto,
    time_to_proto,
    unit_to_proto,
)
from mainspring_svckit.names import ModelName, ModelVersionName
from mainspring_svckit.values import NO_UNIT


def model_to_proto(model: Model) -> model_pb2.Model:
    """Prints a model."""
    name = ModelName.parse(model.name)
    latest = str(ModelVersionName(name.project, name.model, str(model.versions))) if model.versions else ""
    return model_pb2.Model(
        name=model.name,
        kind=_kind_to_proto(model.kind),
        create_time=time_to_proto(model.create_time),
        aliases=model.aliases,
        latest_version=latest,
        active_release=model.active_release,
        description=model.description,
        tags=model.tags,
    )


def query_from_proto(message: pb.ListModelsRequest) -> ModelQuery:
    """Reads what a list of models is narrowed to."""
    kind = model_pb2.ModelKind.Name(message.kind).removeprefix("MODEL_KIND_")
    return ModelQuery(ModelKind(kind) if message.kind else None, message.tag, message.text)


def version_to_proto(version: ModelVersion) -> model_pb2.ModelVersion:
    """Prints a version."""
    return model_pb2.ModelVersion(
        name=version.name,
        kind=_kind_to_proto(version.kind),
        base_model_version=version.base_model_version,
        artifacts={role: artifact_to_proto(artifact) for role, artifact in version.artifacts.items()},
        manifest=artifact_to_proto(version.manifest),
        serving=model_pb2.ServingSpec(
            context_tokens=version.serving.context_tokens,
            chat_template=version.serving.chat_template,
            bos_token=version.serving.bos_token,
            eos_token=version.serving.eos_token,
            dimensions=version.serving.dimensions,
        ),
        lineage=_lineage_to_proto(version.lineage),
        licence=version.licence,
        create_time=time_to_proto(version.create_time),
        cycle=version.cycle,
        proof=artifact_to_proto(version.proof) if version.proof is not None else None,
        author=version.author,
        tags=version.tags,
    )


def import_from_proto(project: str, import_id: str, message: model_pb2.ModelImport, author: str) -> CreateModelImport:
    """Reads the wish to import; output-only fields are passed over."""
    return CreateModelImport(
        project=project,
        import_id=import_id,
        model=message.model,
        kind=ModelKind(model_pb2.ModelKind.Name(message.kind).removeprefix("MODEL_KIND_")),
        package=message.package,
        path=message.path,
        hub=message.hub,
        licence=message.licence,
        context_tokens=message.context_tokens,
        author=author,
    )


def import_to_proto(work: ModelImport) -> model_pb2.ModelImport:
    """Prints an import."""
    message = model_pb2.ModelImport(
        name=work.name,
        model=work.model,
        kind=_kind_to_proto(work.kind),
        licence=work.licence,
        context_tokens=work.context_tokens,
        state=model_pb2.ModelImport.State.Value(f"STATE_{work.state.value}"),
        model_version=work.model_version,
        error=failure_to_proto(work.error_reason, work.error_message),
        create_time=time_to_proto(work.create_time),
        end_time=time_to_proto(work.end_time),
    )
    if work.package:
        message.package = work.package
    elif work.hub:
        message.hub = work.hub
    else:
        message.path = work.path
    return message


def decision_to_proto(decision: GateDecision) -> release_pb2.GateDecision:
    """Prints a decision."""
    evidence = decision.evidence
    return release_pb2.GateDecision(
        name=decision.name,
        model_version=decision.model_version,
        manifest_sha256=decision.manifest_sha256,
        outcome=release_pb2.GateDecision.Outcome.Value(f"OUTCOME_{decision.outcome.value}"),
        rules=rules_to_proto(decision.rules),
        evaluation_run=evidence.evaluation_run,
        baseline=evidence.baseline,
        results=[scorer_result_to_proto(result) for result in evidence.results],
        fidelity=fidelity_to_proto(evidence.fidelity),
        further_evaluation_runs=[one.evaluation_run for one in decision.further_evidence],
        policy_sha256=decision.policy_sha256,
        cycle=decision.cycle,
        create_time=time_to_proto(decision.create_time),
    )


def release_to_proto(release: Release) -> release_pb2.Release:
    """Prints a release."""
    return release_pb2.Release(
        name=release.name,
        model_version=release.model_version,
        state=release_pb2.Release.State.Value(f"STATE_{release.state.value}"),
        gate_decision=release.gate_decision,
        previous_release=release.previous_release,
        cycle=release.cycle,
        create_time=time_to_proto(release.create_time),
        end_reason=release.end_reason,
        proof=artifact_to_proto(release.proof) if release.proof is not None else None,
        released_by=release.released_by,
        approvals=release.approvals,
        unit=serving_unit_to_proto(release.unit),
        served_unit=unit_to_proto(release.served_unit or NO_UNIT),
    )


def approval_to_proto(approval: Approval) -> release_pb2.Approval:
    """Prints an approval."""
    return release_pb2.Approval(
        name=approval.name,
        model_version=approval.model_version,
        manifest_sha256=approval.manifest_sha256,
        approver=approval.approver,
        roles=approval.roles,
        comment=approval.comment,
        create_time=time_to_proto(approval.create_time),
    )


def entry_to_proto(entry: HistoryEntry) -> release_pb2.HistoryEntry:
    """Prints an entry of a history."""
    return release_pb2.HistoryEntry(
        name=entry.name,
        kind=release_pb2.HistoryEntry.Kind.Value(f"KIND_{entry.kind.value}"),
        resource=entry.resource,
        actor=entry.actor,
        details=entry.details,
        create_time=time_to_proto(entry.create_time),
        previous_sha256=entry.previous_sha256,
        sha256=entry.sha256,
    )


def judgement_to_proto(judgement: Judgement | None) -> pb.CheckReleaseResponse:
    """Prints what the gate would say."""
    if judgement is None:
        missing = release_pb2.RuleResult(rule="policy", explanation="no release policy guards this model")
        return pb.CheckReleaseResponse(allowed=False, rules=[missing])
    rules = rules_to_proto((*judgement.rules, *judgement.approval_rules))
    return pb.CheckReleaseResponse(allowed=judgement.allowed, rules=rules)


def rules_to_proto(rules: Sequence[RuleResult]) -> list[release_pb2.RuleResult]:
    """Prints rules with their reasoning."""
    return [release_pb2.RuleResult(rule=rule.rule, passed=rule.passed, explanation=rule.explanation) for rule in rules]


def cycle_to_proto(cycle: Cycle) -> release_pb2.Cycle:
    """Prints a turn of the loop."""
    steps = [
        release_pb2.CycleStep(
            event_type=step.event_type, subject=step.subject, event_id=step.event_id, time=time_to_proto(step.time)
        )
        for step in cycle.steps
    ]
    times = [step.time for step in cycle.steps]
    return release_pb2.Cycle(
        name=cycle.name,
        steps=steps,
        start_time=time_to_proto(min(times, default=None)),
        latest_time=time_to_proto(max(times, default=None)),
    )


def _lineage_to_proto(lineage: Lineage) -> model_pb2.Lineage:
    return model_pb2.Lineage(
        training_run=lineage.training_run,
        dataset_version=lineage.dataset_version,
        dataset_root_sha256=lineage.dataset_root_sha256,
        recipe_sha256=lineage.recipe_sha256,
        parent_model_version=lineage.parent_model_version,
        model_import=lineage.model_import,
        origin=lineage.origin,
        quantized_from=lineage.quantized_from,
        merged_from=lineage.merged_from,
        environment=lineage.environment,
    )


def _kind_to_proto(kind: ModelKind) -> model_pb2.ModelKind.ValueType:
    return model_pb2.ModelKind.Value(f"MODEL_KIND_{kind.value}")
