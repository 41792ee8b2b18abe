"""Between shared values and the messages of `mainspring.common.v1`."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from mainspring.common.v1 import artifact_pb2, progress_pb2, statistics_pb2
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.status import error_info, to_status
from mainspring_svckit.values import ArtifactRef, Estimate, Fidelity, Progress, ScorerResult


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


def progress_to_proto(progress: Progress) -> progress_pb2.Progress:
    """Prints how far work has come."""
    message = progress_pb2.Progress(done=progress.done, total=progress.total, unit=progress.unit, phase=progress.phase)
    if progress.remaining_s is not None:
        message.remaining.CopyFrom(duration_to_proto(progress.remaining_s))
    return message


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
        candidate=_estimate_to_proto(result.candidate),
        baseline=_estimate_to_proto(result.baseline) if result.baseline is not None else None,
        difference=_estimate_to_proto(result.difference) if result.difference is not None else None,
        p_value=result.p_value,
    )


def scorer_result_from_proto(message: statistics_pb2.ScorerResult) -> ScorerResult:
    """Reads what a scorer said."""
    return ScorerResult(
        scorer=message.scorer,
        signature=message.signature,
        candidate=_estimate_from_proto(message.candidate),
        baseline=_estimate_from_proto(message.baseline) if message.HasField("baseline") else None,
        difference=_estimate_from_proto(message.difference) if message.HasField("difference") else None,
        p_value=message.p_value,
    )


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


def _estimate_to_proto(estimate: Estimate) -> statistics_pb2.Estimate:
    return statistics_pb2.Estimate(
        value=estimate.value, low=estimate.low, high=estimate.high, confidence_level=estimate.confidence_level
    )


def _estimate_from_proto(message: statistics_pb2.Estimate) -> Estimate:
    return Estimate(message.value, message.low, message.high, message.confidence_level)
