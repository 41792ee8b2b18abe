"""Between shared values and the messages of `mainspring.common.v1`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from mainspring.common.v1 import artifact_pb2, chat_pb2, guard_pb2, progress_pb2, statistics_pb2, unit_pb2
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.status import error_info, to_status
from mainspring_svckit.values import (
    NO_UNIT,
    ArtifactRef,
    Estimate,
    Fidelity,
    GuardAction,
    GuardDirection,
    GuardRule,
    Message,
    PersonalDataKind,
    Progress,
    ScorerFailure,
    ScorerResult,
    ServedGuard,
    ServedUnit,
    SliceResult,
)

_ROLE = "ROLE_"


def artifact_to_proto(artifact: ArtifactRef) -> artifact_pb2.Artifact:
    """Prints an artifact."""
    return artifact_pb2.Artifact(
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        media_type=artifact.media_type,
        filename=artifact.filename,
    )


def artifact_from_proto(artifact: artifact_pb2.Artifact) -> ArtifactRef:
    """Reads an artifact."""
    return ArtifactRef(artifact.sha256, artifact.size_bytes, artifact.media_type, artifact.filename)


def messages_to_proto(messages: Iterable[Message]) -> list[chat_pb2.ChatMessage]:
    """Prints turns of a conversation."""
    role = chat_pb2.ChatMessage.Role
    return [chat_pb2.ChatMessage(role=role.Value(_ROLE + m.role.upper()), content=m.content) for m in messages]


def messages_from_proto(messages: Iterable[chat_pb2.ChatMessage]) -> tuple[Message, ...]:
    """Reads turns of a conversation."""
    role = chat_pb2.ChatMessage.Role
    return tuple(Message(role.Name(m.role).removeprefix(_ROLE).lower(), m.content) for m in messages)


def unit_to_proto(unit: ServedUnit) -> unit_pb2.ServedUnit | None:
    """Prints what goes with a version; None for nothing."""
    if unit == NO_UNIT:
        return None
    return unit_pb2.ServedUnit(
        prompt_version=unit.prompt_version,
        prompt=messages_to_proto(unit.prompt),
        collection=unit.collection,
        temperature=unit.temperature,
        max_output_tokens=unit.max_output_tokens,
        guard=_guard_to_proto(unit.guard),
    )


def unit_from_proto(message: unit_pb2.ServedUnit) -> ServedUnit:
    """Reads what goes with a version."""
    return ServedUnit(
        message.prompt_version,
        messages_from_proto(message.prompt),
        message.collection,
        message.temperature if message.HasField("temperature") else None,
        message.max_output_tokens,
        _guard_from_proto(message.guard) if message.HasField("guard") else None,
    )


def guard_rules_to_proto(rules: Iterable[GuardRule]) -> list[guard_pb2.GuardRule]:
    """Prints what may not come in and go out."""
    kind = guard_pb2.GuardRule
    return [
        kind(
            id=rule.id,
            direction=kind.Direction.Value(f"DIRECTION_{rule.direction.value}"),
            action=kind.Action.Value(f"ACTION_{rule.action.value}"),
            text=rule.text,
            exact=rule.exact,
            whole_words=rule.whole_words,
            texts=rule.texts,
            expressions=rule.expressions,
            personal_data=[kind.PersonalData.Value(f"PERSONAL_DATA_{each.value}") for each in rule.personal_data],
            max_characters=rule.max_characters,
        )
        for rule in rules
    ]


def guard_rules_from_proto(messages: Iterable[guard_pb2.GuardRule]) -> tuple[GuardRule, ...]:
    """Reads what may not come in and go out."""
    kind = guard_pb2.GuardRule
    return tuple(
        GuardRule(
            id=rule.id,
            direction=GuardDirection(kind.Direction.Name(rule.direction).removeprefix("DIRECTION_")),
            action=GuardAction(kind.Action.Name(rule.action).removeprefix("ACTION_")),
            text=rule.text,
            exact=rule.exact,
            whole_words=rule.whole_words,
            texts=tuple(rule.texts),
            expressions=tuple(rule.expressions),
            personal_data=tuple(
                PersonalDataKind(kind.PersonalData.Name(each).removeprefix("PERSONAL_DATA_"))
                for each in rule.personal_data
            ),
            max_characters=rule.max_characters,
        )
        for rule in messages
    )


def _guard_to_proto(guard: ServedGuard | None) -> guard_pb2.ServedGuard | None:
    if guard is None:
        return None
    return guard_pb2.ServedGuard(
        guard_policy_version=guard.guard_policy_version, sha256=guard.sha256, rules=guard_rules_to_proto(guard.rules)
    )


def _guard_from_proto(message: guard_pb2.ServedGuard) -> ServedGuard:
    return ServedGuard(message.guard_policy_version, message.sha256, guard_rules_from_proto(message.rules))


def progress_to_proto(progress: Progress) -> progress_pb2.Progress:
    """Prints how far work has come."""
    message = progress_pb2.Progress(done=progress.done, total=progress.total, unit=progress.unit, phase=progress.phase)
    if progress.remaining_s is not None:
        message.remaining.CopyFrom(duration_to_proto(progress.remaining_s))
    return message


def progress_from_proto(message: progress_pb2.Progress) -> Progress:
    """Reads how far work has come."""
    remaining_s = message.remaining.ToNanoseconds() / 1e9 if message.HasField("remaining") else None
    return Progress(message.done, message.total, message.unit, message.phase, remaining_s)


def time_to_proto(time: datetime | None) -> Timestamp | None:
    """Prints a time; None stays None, which protobuf constructors take as absent."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def duration_to_proto(seconds: float) -> Duration:
    """Prints a time span."""
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def failure_to_proto(reason: str, message: str) -> status_pb2.Status | None:
    """Prints why long work failed; None when it did not."""
    return to_status(PreconditionFailed(reason, message)) if reason else None


def failure_from_proto(status: status_pb2.Status) -> tuple[str, str]:
    """Reads what `failure_to_proto` printed."""
    return error_info(status).reason, status.message


def scorer_result_to_proto(result: ScorerResult) -> statistics_pb2.ScorerResult:
    """Prints what a scorer said."""
    return statistics_pb2.ScorerResult(
        scorer=result.scorer,
        signature=result.signature,
        candidate=estimate_to_proto(result.candidate),
        baseline=estimate_to_proto(result.baseline),
        difference=estimate_to_proto(result.difference),
        p_value=result.p_value,
        lower_is_better=result.lower_is_better,
        test=result.test,
        test_p_value=result.test_p_value,
        adjusted_p_value=result.adjusted_p_value,
        minimum_detectable_effect=result.minimum_detectable_effect,
        items=result.items,
        slices=[
            statistics_pb2.SliceResult(
                slice=part.slice,
                items=part.items,
                too_few_items=part.too_few_items,
                candidate=estimate_to_proto(part.candidate),
                baseline=estimate_to_proto(part.baseline),
                difference=estimate_to_proto(part.difference),
                p_value=part.p_value,
            )
            for part in result.slices
        ],
    )


def scorer_result_from_proto(message: statistics_pb2.ScorerResult) -> ScorerResult:
    """Reads what a scorer said."""
    return ScorerResult(
        scorer=message.scorer,
        signature=message.signature,
        candidate=_estimate_from_proto(message.candidate),
        baseline=_set_estimate(message, "baseline"),
        difference=_set_estimate(message, "difference"),
        p_value=message.p_value,
        lower_is_better=message.lower_is_better,
        test=message.test,
        test_p_value=message.test_p_value,
        adjusted_p_value=message.adjusted_p_value,
        minimum_detectable_effect=message.minimum_detectable_effect,
        items=message.items,
        slices=tuple(
            SliceResult(
                part.slice,
                part.items,
                part.too_few_items,
                _set_estimate(part, "candidate"),
                _set_estimate(part, "baseline"),
                _set_estimate(part, "difference"),
                part.p_value,
            )
            for part in message.slices
        ),
    )


def scorer_failure_to_proto(failure: ScorerFailure) -> statistics_pb2.ScorerFailure:
    """Prints why a scorer has no result."""
    return statistics_pb2.ScorerFailure(scorer=failure.scorer, reason=failure.reason, message=failure.message)


def fidelity_to_proto(fidelity: Fidelity | None) -> statistics_pb2.Fidelity | None:
    """Prints how close an engine is; None stays None."""
    if fidelity is None:
        return None
    return statistics_pb2.Fidelity(
        mean_kl_nats=fidelity.mean_kl_nats, top1_agreement=fidelity.top1_agreement, positions=fidelity.positions
    )


def fidelity_from_proto(message: statistics_pb2.Fidelity) -> Fidelity | None:
    """Reads how close an engine is; None when nothing was compared."""
    if not message.positions:
        return None
    return Fidelity(message.mean_kl_nats, message.top1_agreement, message.positions)


def _set_estimate(message: statistics_pb2.ScorerResult | statistics_pb2.SliceResult, field: str) -> Estimate | None:
    return _estimate_from_proto(getattr(message, field)) if message.HasField(field) else None  # type: ignore[arg-type]


def estimate_to_proto(estimate: Estimate | None) -> statistics_pb2.Estimate | None:
    """Prints a value with its interval; None stays None."""
    if estimate is None:
        return None
    return statistics_pb2.Estimate(
        value=estimate.value, low=estimate.low, high=estimate.high, confidence_level=estimate.confidence_level
    )


def _estimate_from_proto(message: statistics_pb2.Estimate) -> Estimate:
    return Estimate(message.value, message.low, message.high, message.confidence_level)
