"""One tree of errors for all services. Pure: domain and application may raise these.

    MainspringError
    ├── InvalidInput            INVALID_ARGUMENT      the request can never work as it is
    ├── Unauthenticated         UNAUTHENTICATED       nobody vouches for the caller
    ├── PermissionDenied        PERMISSION_DENIED     the caller lacks a role
    ├── NotFound                NOT_FOUND             missing, or another project's
    ├── AlreadyExists           ALREADY_EXISTS
    ├── IllegalTransition       FAILED_PRECONDITION   the resource's state forbids it
    ├── PreconditionFailed      FAILED_PRECONDITION   something else must be mended first
    ├── ConcurrentChange        ABORTED               read again, then try again
    ├── QuotaExceeded           RESOURCE_EXHAUSTED
    ├── InsufficientStorage     RESOURCE_EXHAUSTED
    └── Unavailable             UNAVAILABLE           the same call may work in a moment

`mainspring_svckit.status` turns them into a `google.rpc.Status`, the gateway into an HTTP answer. Messages say what to
do next. Every value shown in a message also stands in `metadata`, so that no client has to parse text. A reason is
contract: never reused and never renamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldViolation:
    """One broken rule: the field's path (`source.format`), and what would be right."""

    field: str
    description: str


class MainspringError(Exception):
    """Root of the tree; never raised itself.

    Args:
        reason: Stable name, UPPER_SNAKE, at most 63 characters.
        message: What is wrong and what to do next, for people.
        metadata: The values in the message, by lowerCamel key.
    """

    code: ClassVar[str]
    """Name of the gRPC status code."""

    def __init__(self, reason: str, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})


class InvalidInput(MainspringError):
    """The request breaks a rule; all violations are given at once."""

    code = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "INVALID_REQUEST",
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message, metadata)
        self.violations = tuple(violations)


class Unauthenticated(MainspringError):
    """No valid token came with the call."""

    code = "UNAUTHENTICATED"

    def __init__(self, message: str = "send a valid token as 'authorization: Bearer <token>'") -> None:
        super().__init__("UNAUTHENTICATED", message)


class PermissionDenied(MainspringError):
    """The caller is known but lacks the role that the call needs."""

    code = "PERMISSION_DENIED"

    def __init__(self, required_role: str) -> None:
        super().__init__(
            "ROLE_MISSING",
            f"this call needs the role {required_role} in the project; ask an admin of the project for it",
            {"requiredRole": required_role},
        )


class NotFound(MainspringError):
    """The resource does not exist, or belongs to a project that the caller cannot see; both read the same."""

    code = "NOT_FOUND"

    def __init__(self, resource_type: str, name: str) -> None:
        self.resource_type, self.name = resource_type, name
        reason = f"{_upper_snake(resource_type)}_NOT_FOUND"
        super().__init__(reason, f"{resource_type} {name!r} does not exist", {"name": name})


class AlreadyExists(MainspringError):
    """A resource of that name exists already."""

    code = "ALREADY_EXISTS"

    def __init__(self, resource_type: str, name: str) -> None:
        self.resource_type, self.name = resource_type, name
        reason = f"{_upper_snake(resource_type)}_ALREADY_EXISTS"
        super().__init__(reason, f"{resource_type} {name!r} exists already; choose another id", {"name": name})


class IllegalTransition(MainspringError):
    """The resource is in a state from which the wish cannot be fulfilled."""

    code = "FAILED_PRECONDITION"

    def __init__(self, name: str, current: str, allowed: Sequence[str]) -> None:
        self.name, self.current, self.allowed = name, current, tuple(allowed)
        wanted = " or ".join(allowed) if allowed else "no state (it never allows this)"
        super().__init__(
            "ILLEGAL_STATE_TRANSITION",
            f"{name} is {current}; this needs {wanted}",
            {"name": name, "currentState": current, "allowedStates": ",".join(allowed)},
        )


class PreconditionFailed(MainspringError):
    """Something other than the resource's own state must be mended first."""

    code = "FAILED_PRECONDITION"


class ConcurrentChange(MainspringError):
    """Somebody else changed the same thing meanwhile; read it again and repeat the change."""

    code = "ABORTED"


class EtagMismatch(ConcurrentChange):
    """The resource was written after the caller read it."""

    def __init__(self, name: str) -> None:
        super().__init__("ETAG_MISMATCH", f"{name} was changed after you read it; read it again", {"name": name})


class QuotaExceeded(MainspringError):
    """A limit of the project or of the service is reached."""

    code = "RESOURCE_EXHAUSTED"


class InsufficientStorage(MainspringError):
    """A disk or a store is full; nothing half-written is kept."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, where: str) -> None:
        super().__init__(
            "INSUFFICIENT_STORAGE", f"{where} has no space left; free some and try again", {"where": where}
        )


class Unavailable(MainspringError):
    """The call may work in a moment: a dependency is away, or the service is full or stopping."""

    code = "UNAVAILABLE"

    def __init__(
        self, reason: str, message: str, *, retry_after_s: float = 1.0, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason, message, metadata)
        self.retry_after_s = retry_after_s


def failure_of(error: Exception) -> tuple[str, str]:
    """Stable reason and words of an error that ended long work; of an unexpected one nothing but its kind."""
    if isinstance(error, MainspringError):
        return error.reason, error.message
    return "INTERNAL", f"{type(error).__name__}; the service's log tells more"


def _upper_snake(camel: str) -> str:
    return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(camel)).upper()
