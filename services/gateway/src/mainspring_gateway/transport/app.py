"""The application around the routes: limits, request ids, errors."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainspring_gateway.transport.errors import error_body, response_of, response_of_validation
from mainspring_svckit import telemetry
from mainspring_svckit.errors import MainspringError
from mainspring_svckit.health import Health
from mainspring_svckit.ids import new_id
from mainspring_svckit.logs import get_logger

MAX_BODY_BYTES = 8 << 20
log = get_logger(__name__)


def make_app(routers: Sequence[APIRouter], health: Health) -> ASGIApp:
    """The gateway's whole application."""
    app = FastAPI(title="Mainspring gateway", version="1", docs_url=None, redoc_url=None)
    for router in routers:
        app.include_router(router)

    @app.get("/readyz", include_in_schema=False)
    async def ready() -> Response:
        return JSONResponse({"ready": health.ready}, 200 if health.ready else 503)

    @app.exception_handler(MainspringError)
    async def ours(_: Request, error: MainspringError) -> Response:
        return response_of(error)

    @app.exception_handler(HTTPException)
    async def starlettes(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(error.status_code, "http_error")
        body = error_body(str(error.detail), error.status_code, code)
        return JSONResponse(body, error.status_code, {"x-should-retry": "false"})

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)

    app.exception_handler(RequestValidationError)(response_of_validation)
    return _Around(app)


class _Around:
    """Raw ASGI around everything: the request's id and trace, the body's limit, and the last word on errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, started, size = new_id(), False, 0
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                # One of Starlette's own, since FastAPI turns any other error of reading a body into a 400.
                raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
            return message

        async def marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        token = telemetry.attach(telemetry.extract(headers))
        with structlog.contextvars.bound_contextvars(request_id=request_id, path=scope["path"]):
            try:
                await self._app(scope, limited, marked)
            except Exception:
                log.error("request_failed", exc_info=True)
                if started:
                    raise
                body = error_body("something went wrong on our side; the request id finds it", 500, "internal")
                await JSONResponse(body, 500, {"x-should-retry": "false"})(scope, receive, marked)
            finally:
                telemetry.detach(token)
