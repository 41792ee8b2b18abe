"""Between shared values and the messages of `mainspring.common.v1`."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from mainspring.common.v1 import artifact_pb2, progress_pb2
from mainspring_svckit.errors import MainspringError, PreconditionFailed
from mainspring_svckit.status import error_info, to_status
from mainspring_svckit.values import ArtifactRef, Progress


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


def failure_of(error: Exception) -> tuple[str, str]:
    """Stable reason and words of an error that ended long work; of an unexpected one nothing but its kind."""
    if isinstance(error, MainspringError):
        return error.reason, error.message
    return "INTERNAL", f"{type(error).__name__}; the service's log tells more"


def failure_from_proto(status: status_pb2.Status) -> tuple[str, str]:
    """Reads what `failure_to_proto` printed."""
    return error_info(status).reason, status.message
