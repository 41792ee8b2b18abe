"""`request_id`: the same id and the same request have the same effect for 24 hours.

The first call's answer is stored in the transaction that holds its effect, so the two never disagree. A repeat gets
that answer; the same id with another request is refused; a repeat while the first still runs is told so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta

from google.protobuf.message import Message
from sqlalchemy import text

from mainspring_svckit.database import Database
from mainspring_svckit.errors import ConcurrentChange, FieldViolation, InvalidInput

WINDOW = timedelta(hours=24)


async def once(
    database: Database,
    *,
    project: str,
    method: str,
    request: Message,
    response_type: type[Message],
    handler: Callable[[], Awaitable[Message]],
) -> Message:
    """Runs `handler` once for the request's `request_id`, in the ambient transaction.

    Raises:
        InvalidInput: REQUEST_ID_REUSED, the id came before with another request.
        ConcurrentChange: REQUEST_IN_PROGRESS, the first call has not ended.
    """
    request_id: str = getattr(request, "request_id")  # noqa: B009 - a field that only some messages have.
    fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    connection = database.connection()
    identity = {"project": project, "method": method, "request_id": request_id}
    locked = await connection.scalar(
        text("SELECT pg_try_advisory_xact_lock(hashtextextended(:key, 0))"),
        {"key": f"{project}\n{method}\n{request_id}"},
    )
    if not locked:
        raise ConcurrentChange("REQUEST_IN_PROGRESS", "the first call with this request_id has not ended; wait for it")
    found = (
        await connection.execute(
            text(
                "SELECT fingerprint, response FROM request WHERE project = :project AND method = :method"
                " AND request_id = :request_id AND create_time > now() - cast(:window AS interval)"
            ),
            {**identity, "window": WINDOW},
        )
    ).one_or_none()
    if found is not None:
        if bytes(found.fingerprint) != fingerprint:
            description = "was used before with another request; take a new UUID"
            raise InvalidInput(
                f"request_id {description}",
                reason="REQUEST_ID_REUSED",
                violations=[FieldViolation("request_id", description)],
            )
        return response_type.FromString(bytes(found.response))
    response = await handler()
    await connection.execute(
        text(
            "INSERT INTO request (project, method, request_id, fingerprint, response)"
            " VALUES (:project, :method, :request_id, :fingerprint, :response)"
            " ON CONFLICT (project, method, request_id) DO UPDATE"
            " SET fingerprint = excluded.fingerprint, response = excluded.response, create_time = now()"
        ),
        {**identity, "fingerprint": fingerprint, "response": response.SerializeToString()},
    )
    return response


async def forget_old_requests(database: Database) -> int:
    """Deletes answers older than the window; called now and then by the service. Returns how many."""
    async with database.transaction() as connection:
        result = await connection.execute(
            text("DELETE FROM request WHERE create_time <= now() - cast(:window AS interval)"), {"window": WINDOW}
        )
        return result.rowcount
