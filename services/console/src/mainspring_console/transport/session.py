"""Who looks: a token in a cookie that scripts cannot read."""

from __future__ import annotations

from html import escape
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mainspring_console.domain.wording import project_of_token
from mainspring_svckit.auth import Principal, TokenVerifier
from mainspring_svckit.errors import Unauthenticated

COOKIE = "mainspring_token"
PROJECT_COOKIE = "mainspring_project"
_OPEN = ("/login", "/readyz")
# NiceGUI puts scripts into its pages and compiles templates in the browser; what a browser loads comes from here alone.
_CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; object-src 'none'; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
_HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", _CONTENT_POLICY.encode()),
)
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Enter – Mainspring</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px system-ui;max-width:34rem;margin:15vh auto;padding:0 1rem}}input,button{{font:inherit;
padding:.5rem;width:100%;box-sizing:border-box;margin:.3rem 0 1rem}}p.error{{color:#b00020}}
:root{{color-scheme:light dark}}@media(prefers-color-scheme:dark){{p.error{{color:#ff8a9a}}}}</style></head><body><main>
<h1>Mainspring</h1>{error}<form method="post" action="/login"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="off" required autofocus>
<label for="project">Project</label><input id="project" name="project" value="{project}">
<button type="submit">Enter</button></form>
<p>The first token of a local installation lies in its data folder (<code>admin-token</code>); others are made by
<code>mainspring token create</code>.</p></main></body></html>"""


def refused(reason: str, project: str, status: int) -> Response:
    """The login page again, with what was wrong."""
    error = f'<p class="error" role="alert">{escape(reason)}</p>'
    return HTMLResponse(_PAGE.format(error=error, project=escape(project)), status)


def login_router(verifier: TokenVerifier, *, secure: bool) -> APIRouter:
    """The login page.

    Args:
        verifier: Verifies tokens.
        secure: Whether the cookie is for HTTPS only.
    """
    router = APIRouter()

    @router.get("/login")
    async def show(project: str = "") -> Response:
        return HTMLResponse(_PAGE.format(error="", project=escape(project)))

    @router.post("/login")
    async def enter(token: Annotated[str, Form(max_length=8000)], project: Annotated[str, Form()] = "") -> Response:
        try:
            allowed = verifier.verify(token.strip()).projects
        except Unauthenticated as err:
            return refused(err.message, project, 401)
        if not project_of_token(allowed, project):
            return refused("the token is good for every project; say which one to look at", project, 400)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, token.strip(), httponly=True, samesite="strict", secure=secure, max_age=12 * 3600)
        answer.set_cookie(PROJECT_COOKIE, project[:100], httponly=True, samesite="strict", secure=secure)
        return answer

    @router.post("/logout")
    async def leave() -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer

    return router


class OnlyForCallers:
    """Lets nobody past without a valid token, neither to pages nor to their sockets."""

    def __init__(self, app: ASGIApp, verifier: TokenVerifier) -> None:
        self._app, self._verifier = app, verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: object) -> None:
            assert isinstance(message, dict)
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        if scope["type"] not in {"http", "websocket"} or scope["path"] in _OPEN:
            await self._app(scope, receive, with_headers)
            return
        request = Request({**scope, "type": "http"})
        try:
            caller_of(request, self._verifier)
        except Unauthenticated:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 4401})
                return
            query = urlencode({"project": request.cookies.get(PROJECT_COOKIE, "")})
            await RedirectResponse(f"/login?{query}", 303)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


def caller_of(request: Request, verifier: TokenVerifier) -> tuple[Principal, str]:
    """Who looks, and with which token.

    Raises:
        Unauthenticated: There is no valid token.
    """
    token = request.cookies.get(COOKIE, "")
    return verifier.verify(token), token
