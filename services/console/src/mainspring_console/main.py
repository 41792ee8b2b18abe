"""Wires the console."""

from __future__ import annotations

import socket

from fastapi import FastAPI
from starlette.types import ASGIApp

from mainspring_console.adapters.services import Services
from mainspring_console.settings import ConsoleSettings
from mainspring_console.transport.session import OnlyForCallers, login_router
from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.http_server import serve_http
from mainspring_svckit.lifecycle import Process, run_main

PACKAGE = "mainspring_console"
RECONNECT_S = 30.0
"""After so long without a connection a page begins anew, and what somebody was writing there is lost."""


def make_app(services: Services, verifier: TokenVerifier, *, secure_cookies: bool) -> ASGIApp:
    """The console's whole application."""
    # NiceGUI takes a second to import and is needed by this process only.
    from nicegui import ui

    from mainspring_console.transport.pages import register

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(login_router(verifier, secure=secure_cookies))
    register(services, verifier)
    ui.run_with(
        app,
        title="Mainspring",
        language="en-US",
        binding_refresh_interval=None,
        show_welcome_message=False,
        reconnect_timeout=RECONNECT_S,
    )
    return OnlyForCallers(app, verifier)


async def serve(process: Process, settings: ConsoleSettings) -> int:
    """Builds everything and serves until told to stop."""
    addresses = {
        "data-ingest": settings.data_ingest_address,
        "trainer": settings.training_address,
        "evaluator": settings.evaluation_address,
        "registry": settings.registry_address,
        "embedder": settings.embedder_address,
        "inference": settings.inference_address,
        "feedback": settings.feedback_address,
    }
    services = Services({name: process.channel(address) for name, address in addresses.items()})
    app = make_app(services, process.verifier(), secure_cookies=settings.secure_cookies)
    listening = socket.create_server((settings.http_host, settings.http_port), backlog=128)
    serving = serve_http(app, listening, settings.stop_grace_s, websockets=True, lifespan=True)
    process.intake(serving, "http")
    return await process.run({"http": listening.getsockname()[1]})


def main() -> None:
    """The command `mainspring-console`."""
    run_main("console", PACKAGE, ConsoleSettings, serve)


if __name__ == "__main__":
    main()
