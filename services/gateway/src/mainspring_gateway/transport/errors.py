"""Our errors as OpenAI's clients know them."""

from __future__ import annotations

import math
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mainspring_svckit.errors import InvalidInput, MainspringError, Unavailable

_STATUS = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "server_error",
}


def error_body(message: str, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The body that OpenAI's clients read."""
    kind = _TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(error: MainspringError) -> dict[str, Any]:
    """The body for an error of our tree."""
    param = error.violations[0].field if isinstance(error, InvalidInput) and error.violations else None
    return error_body(error.message, _STATUS[error.code], error.reason.lower(), param)


def response_of(error: MainspringError) -> Response:
    """The answer for an error of our tree; says whether trying again can help, which OpenAI's clients obey."""
    headers = {"x-should-retry": "false"}
    if isinstance(error, Unavailable):
        headers = {
            "x-should-retry": "true",
            "retry-after": str(math.ceil(error.retry_after_s)),
            "retry-after-ms": str(math.ceil(error.retry_after_s * 1000)),
        }
    return JSONResponse(body_of(error), _STATUS[error.code], headers)


def response_of_validation(_: Request, error: Exception) -> Response:
    """The answer for a body that is not as the API wants it: the first violation, as OpenAI does."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    broken_json = first["type"] == "json_invalid"
    message = "the body is not valid JSON" if broken_json else f"{where or 'body'}: {first['msg']}"
    body = error_body(message, 400, "invalid_json" if broken_json else "invalid_request", where or None)
    return JSONResponse(body, 400, {"x-should-retry": "false"})
