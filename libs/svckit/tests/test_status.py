from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2

from mainspring_svckit import errors
from mainspring_svckit.errors import FieldViolation, MainspringError
from mainspring_svckit.status import DOMAIN, error_info, to_status

ROWS: list[tuple[MainspringError, str, str, type[Message] | None]] = [
    (errors.InvalidInput("x", violations=[FieldViolation("a.b", "bad")]), "INVALID_ARGUMENT", "INVALID_REQUEST",
     error_details_pb2.BadRequest),
    (errors.Unauthenticated(), "UNAUTHENTICATED", "UNAUTHENTICATED", None),
    (errors.PermissionDenied("admin"), "PERMISSION_DENIED", "ROLE_MISSING", None),
    (errors.NotFound("ModelVersion", "n"), "NOT_FOUND", "MODEL_VERSION_NOT_FOUND", error_details_pb2.ResourceInfo),
    (errors.AlreadyExists("Model", "n"), "ALREADY_EXISTS", "MODEL_ALREADY_EXISTS", error_details_pb2.ResourceInfo),
    (errors.IllegalTransition("n", "FAILED", ["PENDING"]), "FAILED_PRECONDITION", "ILLEGAL_STATE_TRANSITION",
     error_details_pb2.PreconditionFailure),
    (errors.PreconditionFailed("R", "m"), "FAILED_PRECONDITION", "R", None),
    (errors.EtagMismatch("n"), "ABORTED", "ETAG_MISMATCH", None),
    (errors.QuotaExceeded("Q", "m"), "RESOURCE_EXHAUSTED", "Q", None),
    (errors.InsufficientStorage("the store"), "RESOURCE_EXHAUSTED", "INSUFFICIENT_STORAGE", None),
    (errors.Unavailable("U", "m", retry_after_s=2.5), "UNAVAILABLE", "U", error_details_pb2.RetryInfo),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "reason", "detail"), ROWS, ids=lambda value: getattr(value, "reason", None))
def test_each_error_has_its_status(error: MainspringError, code: str, reason: str, detail: Any) -> None:
    status = to_status(error)
    assert code_pb2.Code.Name(status.code) == code
    info = error_info(status)
    assert (info.reason, info.domain) == (reason, DOMAIN)
    kinds = [any_.TypeName().rsplit(".", 1)[-1] for any_ in status.details]
    assert kinds == ["ErrorInfo"] + ([detail.DESCRIPTOR.name] if detail else [])
    for value in error.metadata.values():
        assert value in status.message or not value


def test_every_class_of_the_tree_is_in_the_table() -> None:
    def leaves(kind: type[MainspringError]) -> set[type[MainspringError]]:
        below = {leaf for child in kind.__subclasses__() for leaf in leaves(child)}
        return below or {kind}

    known = {leaf for leaf in leaves(MainspringError) if leaf.__module__ == "mainspring_svckit.errors"}
    assert known <= {type(row[0]) for row in ROWS}


def test_an_unexpected_error_tells_nothing_but_the_trace() -> None:
    status = to_status(RuntimeError("password=hunter2 /etc/secret"), trace_id="abc")
    assert status.code == code_pb2.INTERNAL
    assert "hunter2" not in str(status)
    assert error_info(status).metadata["traceId"] == "abc"


def test_all_violations_are_given_at_once() -> None:
    violations = [FieldViolation(f"f{i}", "bad") for i in range(7)]
    status = to_status(errors.InvalidInput("x", violations=violations))
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == [f"f{i}" for i in range(7)]
