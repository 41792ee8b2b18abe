"""The routes of webhooks: whoever is told of releases by HTTP sets it up by HTTP too.

Annotations are evaluated here (no `from __future__ import annotations`), since FastAPI reads dependencies from them.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import JSONResponse, Response

from mainspring_gateway.application.ports import Webhooks
from mainspring_gateway.transport.callers import Caller, admit
from mainspring_gateway.transport.schemas import WebhookRequest, WebhookUpdate
from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.ids import new_id

Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=64)]
After = Annotated[str, Query(max_length=2000)]
Limit = Annotated[int, Query(ge=1, le=500)]


def webhook_router(verifier: TokenVerifier, webhooks: Webhooks) -> APIRouter:
    """The routes below `/v1/webhooks`; what changes something takes an `Idempotency-Key` (a UUID)."""
    router = APIRouter(prefix="/v1/webhooks")
    viewer, admin = Depends(admit(verifier, "viewer")), Depends(admit(verifier, "admin"))

    @router.post("")
    async def create(body: WebhookRequest, caller: Annotated[Caller, admin], key: Key = None) -> Response:
        made = await webhooks.create(
            caller.project,
            body.id,
            body.url,
            body.event_types,
            request_id=key or new_id(),
            authorization=caller.authorization,
        )
        return JSONResponse(_endpoint(made), 201)

    @router.get("")
    async def list_endpoints(caller: Annotated[Caller, viewer], after: After = "", limit: Limit = 50) -> Response:
        found = await webhooks.list(caller.project, after=after, limit=limit, authorization=caller.authorization)
        data = [_endpoint(one) for one in found.get("webhook_endpoints", ())]
        return JSONResponse(_page(data, found))

    @router.get("/{endpoint}")
    async def get(endpoint: str, caller: Annotated[Caller, viewer]) -> Response:
        return JSONResponse(_endpoint(await webhooks.get(caller.project, endpoint, authorization=caller.authorization)))

    @router.put("/{endpoint}")
    async def update(endpoint: str, body: WebhookUpdate, caller: Annotated[Caller, admin], key: Key = None) -> Response:
        made = await webhooks.update(
            caller.project,
            endpoint,
            body.url,
            body.event_types,
            disabled=body.disabled,
            request_id=key or new_id(),
            authorization=caller.authorization,
        )
        return JSONResponse(_endpoint(made))

    @router.post("/{endpoint}/rotate_secret")
    async def rotate(endpoint: str, caller: Annotated[Caller, admin], key: Key = None) -> Response:
        made = await webhooks.rotate(
            caller.project, endpoint, request_id=key or new_id(), authorization=caller.authorization
        )
        return JSONResponse(_endpoint(made))

    @router.delete("/{endpoint}")
    async def delete(endpoint: str, caller: Annotated[Caller, admin], key: Key = None) -> Response:
        await webhooks.delete(caller.project, endpoint, request_id=key or new_id(), authorization=caller.authorization)
        return JSONResponse({"object": "webhook_endpoint", "id": endpoint, "deleted": True})

    @router.get("/{endpoint}/deliveries")
    async def deliveries(
        endpoint: str, caller: Annotated[Caller, viewer], after: After = "", limit: Limit = 50
    ) -> Response:
        found = await webhooks.deliveries(
            caller.project, endpoint, after=after, limit=limit, authorization=caller.authorization
        )
        data = [_delivery(one) for one in found.get("webhook_deliveries", ())]
        return JSONResponse(_page(data, found))

    @router.post("/{endpoint}/deliveries/{delivery}/replay")
    async def replay(endpoint: str, delivery: str, caller: Annotated[Caller, admin], key: Key = None) -> Response:
        again = await webhooks.replay(
            caller.project, endpoint, delivery, request_id=key or new_id(), authorization=caller.authorization
        )
        return JSONResponse(_delivery(again), 202)

    return router


def _endpoint(found: Any) -> dict[str, Any]:
    return {
        "object": "webhook_endpoint",
        "id": found["name"].rsplit("/", 1)[-1],
        **found,
        "state": found["state"].removeprefix("STATE_").lower(),
    }


def _delivery(found: Any) -> dict[str, Any]:
    return {
        "object": "webhook_delivery",
        "id": found["event_id"],
        **found,
        "state": found["state"].removeprefix("STATE_").lower(),
    }


def _page(data: list[dict[str, Any]], found: Any) -> dict[str, Any]:
    """A list in OpenAI's shape; `after` of the next call is `next`, since our cursors are opaque."""
    token = found.get("next_page_token", "")
    return {"object": "list", "data": data, "has_more": bool(token), "next": token or None}
