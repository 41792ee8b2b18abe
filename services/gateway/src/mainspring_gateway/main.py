"""Wires the gateway."""

from __future__ import annotations

import socket

from mainspring_answers.context import EmbedderContext
from mainspring_answers.ledger import OutboxLedger
from mainspring_answers.path import AnswerPath
from mainspring_answers.readiness import answering
from mainspring_answers.routing import RoutingFollower
from mainspring_answers.templates import JinjaTemplates
from mainspring_answers.triton import TritonClient
from mainspring_eventkit.bus import Bus
from mainspring_eventkit.outbox import Outbox
from mainspring_gateway.adapters.services import EmbedderClient, FeedbackClient
from mainspring_gateway.adapters.webhooks import WebhookClient
from mainspring_gateway.settings import GatewaySettings
from mainspring_gateway.transport.app import make_app
from mainspring_gateway.transport.http import Door
from mainspring_gateway.transport.webhooks import webhook_router
from mainspring_svckit.clock import SystemClock
from mainspring_svckit.database import Database
from mainspring_svckit.http_server import serve_http
from mainspring_svckit.lifecycle import Process, run_main

PACKAGE = "mainspring_gateway"


async def serve(process: Process, settings: GatewaySettings) -> int:
    """Builds everything and serves until told to stop."""
    # The record of an answer is an event in inference's outbox; inference's relay publishes it.
    database = Database(settings.inference_database_url.get_secret_value(), service=process.name)
    process.on_close(database.close)
    process.health.add_probe("database", database.ping)
    bus = await Bus.connect(settings.nats_url.get_secret_value(), name="mainspring-gateway")
    process.on_close(bus.close)
    triton = TritonClient(settings.triton_url)
    process.on_close(triton.close)
    routes = RoutingFollower(bus)
    process.support(routes.run(), "routing")
    process.health.add_probe("routing", routes.check)
    process.health.add_probe("triton", answering(triton, routes))
    embedder = process.channel(settings.embedder_address)
    path = AnswerPath(
        engine=triton,
        routes=routes,
        templates=JinjaTemplates(),
        context=EmbedderContext(embedder, process.caller),
        ledger=OutboxLedger(database, Outbox(database, "gateway"), keep_content=settings.keep_content),
        clock=SystemClock(),
    )
    verifier = process.verifier()
    door = Door(
        verifier=verifier,
        path=path,
        routes=routes,
        embeddings=EmbedderClient(embedder, process.caller),
        feedback=FeedbackClient(process.channel(settings.feedback_address)),
    )
    webhooks = webhook_router(verifier, WebhookClient(process.channel(settings.registry_address)))
    listening = socket.create_server((settings.http_host, settings.http_port), backlog=512)
    app = make_app([door.router(), webhooks], process.health)
    process.intake(serve_http(app, listening, settings.stop_grace_s), "http")
    return await process.run({"http": listening.getsockname()[1]})


def main() -> None:
    """The command `mainspring-gateway`."""
    run_main("gateway", PACKAGE, GatewaySettings, serve)


if __name__ == "__main__":
    main()
