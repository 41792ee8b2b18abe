"""`mainspring.registry.v1.WebhookService`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mainspring.registry.v1 import webhook_pb2
from mainspring.registry.v1 import webhook_service_pb2 as pb
from mainspring.registry.v1 import webhook_service_pb2_grpc as pb_grpc
from mainspring_eventkit.catalog import event_messages
from mainspring_registry.application.webhooks import WebhookPorts, Webhooks
from mainspring_registry.domain.webhooks import WebhookDelivery, WebhookEndpoint
from mainspring_registry.transport.webhook_events import NEVER_SENT
from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.mapping import time_to_proto
from mainspring_svckit.names import ProjectName, WebhookEndpointName
from mainspring_svckit.reading import Reader
from mainspring_svckit.repository import Stored

NAME = "mainspring.registry.v1.WebhookService"


class WebhookServicer(pb_grpc.WebhookServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: WebhookPorts, webhooks: Webhooks) -> None:
        self._ports, self._webhooks = ports, webhooks
        self._reader = Reader(ports.transactions)

    async def CreateWebhookEndpoint(
        self, request: pb.CreateWebhookEndpointRequest, context: Any
    ) -> pb.CreateWebhookEndpointResponse:
        _check_types(request.event_types, "event_types")
        name = WebhookEndpointName(ProjectName.parse(request.parent, "parent").project, request.webhook_endpoint_id)
        made = await self._webhooks.create(name, request.url, request.event_types)
        return pb.CreateWebhookEndpointResponse(webhook_endpoint=endpoint_to_proto(made), secret=made.value.secret)

    async def UpdateWebhookEndpoint(
        self, request: pb.UpdateWebhookEndpointRequest, context: Any
    ) -> pb.UpdateWebhookEndpointResponse:
        wish = request.webhook_endpoint
        _check_types(wish.event_types, "webhook_endpoint.event_types")
        stored, moved = await self._webhooks.update(
            wish.name, wish.url, wish.event_types, disabled=wish.disabled, etag=wish.etag
        )
        secret = stored.value.secret if moved else ""
        return pb.UpdateWebhookEndpointResponse(webhook_endpoint=endpoint_to_proto(stored), secret=secret)

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, context: Any
    ) -> pb.RotateWebhookSecretResponse:
        stored = await self._webhooks.rotate(request.name)
        return pb.RotateWebhookSecretResponse(webhook_endpoint=endpoint_to_proto(stored), secret=stored.value.secret)

    async def GetWebhookEndpoint(
        self, request: pb.GetWebhookEndpointRequest, context: Any
    ) -> pb.GetWebhookEndpointResponse:
        found = await self._reader.get(self._ports.endpoints, "WebhookEndpoint", request.name)
        return pb.GetWebhookEndpointResponse(webhook_endpoint=endpoint_to_proto(found))

    async def ListWebhookEndpoints(
        self, request: pb.ListWebhookEndpointsRequest, context: Any
    ) -> pb.ListWebhookEndpointsResponse:
        listed, token = await self._reader.list(self._ports.endpoints, request)
        return pb.ListWebhookEndpointsResponse(
            webhook_endpoints=[endpoint_to_proto(item) for item in listed.items], next_page_token=token
        )

    async def DeleteWebhookEndpoint(
        self, request: pb.DeleteWebhookEndpointRequest, context: Any
    ) -> pb.DeleteWebhookEndpointResponse:
        await self._webhooks.delete(request.name)
        return pb.DeleteWebhookEndpointResponse()

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, context: Any
    ) -> pb.ListWebhookDeliveriesResponse:
        listed, token = await self._reader.list(self._ports.deliveries, request)
        return pb.ListWebhookDeliveriesResponse(
            webhook_deliveries=[delivery_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def ReplayWebhookDelivery(
        self, request: pb.ReplayWebhookDeliveryRequest, context: Any
    ) -> pb.ReplayWebhookDeliveryResponse:
        return pb.ReplayWebhookDeliveryResponse(
            webhook_delivery=delivery_to_proto(await self._webhooks.replay(request.name))
        )


def endpoint_to_proto(stored: Stored[WebhookEndpoint]) -> webhook_pb2.WebhookEndpoint:
    """Prints an endpoint, never its secret."""
    endpoint = stored.value
    return webhook_pb2.WebhookEndpoint(
        name=endpoint.name,
        url=endpoint.url,
        event_types=endpoint.event_types,
        disabled=bool(endpoint.disabled_reason),
        state=webhook_pb2.WebhookEndpoint.State.Value(f"STATE_{endpoint.state.value}"),
        disabled_reason=endpoint.disabled_reason,
        create_time=time_to_proto(endpoint.create_time),
        update_time=time_to_proto(stored.update_time),
        etag=stored.etag,
    )


def delivery_to_proto(delivery: WebhookDelivery) -> webhook_pb2.WebhookDelivery:
    """Prints a delivery."""
    return webhook_pb2.WebhookDelivery(
        name=delivery.name,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        subject=delivery.subject,
        state=webhook_pb2.WebhookDelivery.State.Value(f"STATE_{delivery.state.value}"),
        attempts=delivery.attempts,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        create_time=time_to_proto(delivery.create_time),
        next_attempt_time=time_to_proto(delivery.next_attempt_time),
        end_time=time_to_proto(delivery.end_time),
    )


def _check_types(event_types: Sequence[str], field: str) -> None:
    known = {name for name in event_messages() if not name.startswith(NEVER_SENT)}
    if unknown := sorted(set(event_types) - known):
        description = f"{', '.join(unknown)}: not among the types that are sent: {', '.join(sorted(known))}"
        raise InvalidInput(f"{field}: {description}", violations=[FieldViolation(field, description)])
