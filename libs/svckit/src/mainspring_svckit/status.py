"""The one mapping between the tree of errors and `google.rpc.Status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from mainspring_svckit import errors

DOMAIN = "mainspring"


def to_status(error: BaseException, *, trace_id: str = "") -> status_pb2.Status:
    """The status that a caller gets for `error`. Anything outside the tree is INTERNAL and tells nothing but the trace
    id.
    """
    if not isinstance(error, errors.MainspringError):
        metadata = {"traceId": trace_id} if trace_id else {}
        message = "something went wrong on our side; the trace id finds it in the logs"
        return _pack(code_pb2.INTERNAL, message, "INTERNAL", metadata, [])
    return _pack(code_pb2.Code.Value(error.code), error.message, error.reason, error.metadata, _details(error))


def from_rpc_error(error: grpc.RpcError) -> errors.MainspringError:
    """The error that a service raised, read back from a failed call of it; the inverse of `to_status` for what callers
    act on.

    A call that failed on its way, or without details, becomes `Unavailable` or `PreconditionFailed` with a reason of
    its own.
    """
    call = cast("grpc.Call", error)  # Both kinds of errors (grpc and grpc.aio) can be read like a call.
    status = rpc_status.from_call(call)
    if status is None:
        code, message = call.code().name, call.details() or "the call failed"
        if code in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}:
            return errors.Unavailable(f"UPSTREAM_{code}", message)
        return errors.PreconditionFailed(f"UPSTREAM_{code}", message)
    return _unpack(status)


def error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """The `ErrorInfo` of a status; empty when it has none."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            break
    return info


def _details(error: errors.MainspringError) -> list[Message]:
    match error:
        case errors.InvalidInput(violations=violations) if violations:
            bad_request = error_details_pb2.BadRequest()
            for violation in violations:
                bad_request.field_violations.add(field=violation.field, description=violation.description)
            return [bad_request]
        case errors.NotFound() | errors.AlreadyExists():
            return [error_details_pb2.ResourceInfo(resource_type=error.resource_type, resource_name=error.name)]
        case errors.IllegalTransition():
            failure = error_details_pb2.PreconditionFailure()
            failure.violations.add(type="STATE", subject=error.name, description=error.message)
            return [failure]
        case errors.Unavailable():
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(error.retry_after_s * 1e9))
            return [error_details_pb2.RetryInfo(retry_delay=delay)]
        case _:
            return []


def _pack(
    code: int, message: str, reason: str, metadata: Mapping[str, str], more: Sequence[Message]
) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    packed: list[any_pb2.Any] = []
    for detail in [info, *more]:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=message, details=packed)


def _unpack(status: status_pb2.Status) -> errors.MainspringError:
    info = error_info(status)
    metadata = dict(info.metadata)
    match code_pb2.Code.Name(status.code):
        case "INVALID_ARGUMENT":
            found = error_details_pb2.BadRequest()
            for detail in status.details:
                detail.Unpack(found)
            violations = [errors.FieldViolation(v.field, v.description) for v in found.field_violations]
            return errors.InvalidInput(
                status.message, reason=info.reason or "INVALID_REQUEST", violations=violations, metadata=metadata
            )
        case "NOT_FOUND" | "ALREADY_EXISTS" as code:
            resource = error_details_pb2.ResourceInfo()
            for detail in status.details:
                detail.Unpack(resource)
            kind = errors.NotFound if code == "NOT_FOUND" else errors.AlreadyExists
            return kind(resource.resource_type or "Resource", resource.resource_name)
        case "UNAUTHENTICATED":
            return errors.Unauthenticated(status.message)
        case "PERMISSION_DENIED":
            return errors.PermissionDenied(metadata.get("requiredRole", ""))
        case "ABORTED":
            return errors.ConcurrentChange(info.reason, status.message, metadata)
        case "RESOURCE_EXHAUSTED":
            return errors.QuotaExceeded(info.reason, status.message, metadata)
        case "UNAVAILABLE" | "DEADLINE_EXCEEDED" | "CANCELLED" | "INTERNAL" | "UNKNOWN" as code:
            retry = error_details_pb2.RetryInfo()
            for detail in status.details:
                detail.Unpack(retry)
            delay = retry.retry_delay.ToNanoseconds() / 1e9 or 1.0
            return errors.Unavailable(
                info.reason or f"UPSTREAM_{code}", status.message, retry_after_s=delay, metadata=metadata
            )
        case _:
            return errors.PreconditionFailed(info.reason or "UPSTREAM_REFUSED", status.message, metadata)
