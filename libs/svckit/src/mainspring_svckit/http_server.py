"""Runs an HTTP server (uvicorn; the extra `http`) beside everything else in a service's process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    """Leaves signals to our own process."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve_http(
    app: ASGIApp, listening: socket.socket, grace_s: float, *, websockets: bool = False, lifespan: bool = False
) -> None:
    """Serves until cancelled, then lets what is in flight end.

    Args:
        app: The application.
        listening: Socket that is bound and listens.
        grace_s: Longest wait for what is in flight.
        websockets: Whether the application speaks WebSocket.
        lifespan: Whether it wants to be told of start and stop.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="websockets-sansio" if websockets else "none",
        lifespan="on" if lifespan else "off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, int(grace_s) - 1),
        h11_max_incomplete_event_size=64 << 10,
        limit_concurrency=2000,
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
