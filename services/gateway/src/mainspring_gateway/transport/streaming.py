"""Server-sent events, straight on ASGI: a client that leaves ends the generation at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mainspring_gateway.transport.errors import body_of, error_body, response_of
from mainspring_svckit.errors import MainspringError
from mainspring_svckit.logs import get_logger

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
log = get_logger(__name__)


class EventStream(Response):
    """A stream of JSON events that ends with `[DONE]`, or with an event that holds `error`.

    An error before the first event is an answer with a status of its own.
    """

    def __init__(self, events: AsyncGenerator[Mapping[str, Any]], headers: Mapping[str, str]) -> None:
        """Takes what to send; the generator is closed in every case."""
        super().__init__(headers=dict(headers), media_type="text/event-stream")
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events) as events:
            started = False
            try:
                async for event in events:
                    if not started:
                        await self._start(send)
                        started = True
                    await _write(send, b"data: " + orjson.dumps(event) + b"\n\n")
            except MainspringError as err:
                if not started:
                    await response_of(err)(scope, receive, send)
                    return
                await _write(send, b"data: " + orjson.dumps(body_of(err)) + b"\n\n")
            except Exception:
                log.error("stream_failed", exc_info=True)
                if not started:
                    raise
                body = error_body("something went wrong on our side", 500, "internal")
                await _write(send, b"data: " + orjson.dumps(body) + b"\n\n")
            else:
                await _write(send, DONE)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        headers = [(key, value) for key, value in self.raw_headers if key != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


async def unless_left(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client leaves.

    Raises:
        ClientDisconnect: It left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _write(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
