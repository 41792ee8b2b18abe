"""Webhooks: events by HTTP, for programs without a connection to the bus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from mainspring.registry.v1 import webhook_pb2, webhook_service_pb2_grpc
from mainspring.registry.v1 import webhook_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName


class Webhooks(Area):
    """Client of the registry's webhook service; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = webhook_service_pb2_grpc.WebhookServiceStub(connection.channel("registry"))

    async def create(
        self, project: str, endpoint_id: str, url: str, event_types: Sequence[str] = ()
    ) -> tuple[webhook_pb2.WebhookEndpoint, str]:
        """Makes an endpoint; returns it with its secret, which is never shown again."""
        request = pb.CreateWebhookEndpointRequest(
            parent=str(ProjectName(project)),
            webhook_endpoint_id=endpoint_id,
            url=url,
            event_types=event_types,
            request_id=new_id(),
        )
        made = await self._unary(self.stub.CreateWebhookEndpoint, request, pb.CreateWebhookEndpointResponse)
        return made.webhook_endpoint, made.secret

    async def update(self, endpoint: webhook_pb2.WebhookEndpoint) -> tuple[webhook_pb2.WebhookEndpoint, str]:
        """Changes an endpoint; returns it, with a new secret when the URL is another one."""
        request = pb.UpdateWebhookEndpointRequest(webhook_endpoint=endpoint, request_id=new_id())
        made = await self._unary(self.stub.UpdateWebhookEndpoint, request, pb.UpdateWebhookEndpointResponse)
        return made.webhook_endpoint, made.secret

    async def rotate_secret(self, name: str) -> str:
        """Makes a new secret; the old one signs too for a day."""
        request = pb.RotateWebhookSecretRequest(name=name, request_id=new_id())
        return (await self._unary(self.stub.RotateWebhookSecret, request, pb.RotateWebhookSecretResponse)).secret

    async def endpoint(self, name: str) -> webhook_pb2.WebhookEndpoint:
        """An endpoint, without its secret."""
        request = pb.GetWebhookEndpointRequest(name=name)
        found = await self._unary(self.stub.GetWebhookEndpoint, request, pb.GetWebhookEndpointResponse)
        return found.webhook_endpoint

    def endpoints(self, project: str) -> AsyncIterator[webhook_pb2.WebhookEndpoint]:
        """A project's endpoints by name."""
        request = pb.ListWebhookEndpointsRequest(parent=str(ProjectName(project)))
        return self._pages(
            self.stub.ListWebhookEndpoints, request, pb.ListWebhookEndpointsResponse, lambda r: r.webhook_endpoints
        )

    async def delete(self, name: str) -> None:
        """Removes an endpoint; what it had not been told is not sent any more."""
        request = pb.DeleteWebhookEndpointRequest(name=name, request_id=new_id())
        await self._unary(self.stub.DeleteWebhookEndpoint, request, pb.DeleteWebhookEndpointResponse)

    def deliveries(self, endpoint: str) -> AsyncIterator[webhook_pb2.WebhookDelivery]:
        """An endpoint's deliveries, newest first."""
        request = pb.ListWebhookDeliveriesRequest(parent=endpoint)
        return self._pages(
            self.stub.ListWebhookDeliveries, request, pb.ListWebhookDeliveriesResponse, lambda r: r.webhook_deliveries
        )

    async def replay(self, delivery: str) -> webhook_pb2.WebhookDelivery:
        """Sends a dead letter again."""
        request = pb.ReplayWebhookDeliveryRequest(name=delivery, request_id=new_id())
        made = await self._unary(self.stub.ReplayWebhookDelivery, request, pb.ReplayWebhookDeliveryResponse)
        return made.webhook_delivery
