"""The registry's webhook service, by gRPC, in the caller's own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from mainspring.registry.v1 import webhook_pb2
from mainspring.registry.v1 import webhook_service_pb2 as pb
from mainspring.registry.v1 import webhook_service_pb2_grpc as pb_grpc
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.names import WebhookDeliveryName, WebhookEndpointName


class WebhookClient:
    """`Webhooks` by gRPC."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = pb_grpc.WebhookServiceStub(channel)

    async def create(
        self, project: str, endpoint: str, url: str, event_types: Sequence[str], *, request_id: str, authorization: str
    ) -> Mapping[str, Any]:
        request = pb.CreateWebhookEndpointRequest(
            parent=f"projects/{project}",
            webhook_endpoint_id=endpoint,
            url=url,
            event_types=event_types,
            request_id=request_id,
        )
        made = await self._ask("CreateWebhookEndpoint", request, authorization)
        return {**_json(made.webhook_endpoint), "secret": made.secret}

    async def list(self, project: str, *, after: str, limit: int, authorization: str) -> Mapping[str, Any]:
        request = pb.ListWebhookEndpointsRequest(parent=f"projects/{project}", page_size=limit, page_token=after)
        return _json(await self._ask("ListWebhookEndpoints", request, authorization))

    async def get(self, project: str, endpoint: str, *, authorization: str) -> Mapping[str, Any]:
        request = pb.GetWebhookEndpointRequest(name=_name(project, endpoint))
        return _json((await self._ask("GetWebhookEndpoint", request, authorization)).webhook_endpoint)

    async def update(
        self,
        project: str,
        endpoint: str,
        url: str,
        event_types: Sequence[str],
        *,
        disabled: bool,
        request_id: str,
        authorization: str,
    ) -> Mapping[str, Any]:
        wanted = webhook_pb2.WebhookEndpoint(
            name=_name(project, endpoint), url=url, event_types=event_types, disabled=disabled
        )
        request = pb.UpdateWebhookEndpointRequest(webhook_endpoint=wanted, request_id=request_id)
        made = await self._ask("UpdateWebhookEndpoint", request, authorization)
        return _json(made.webhook_endpoint) | ({"secret": made.secret} if made.secret else {})

    async def rotate(self, project: str, endpoint: str, *, request_id: str, authorization: str) -> Mapping[str, Any]:
        request = pb.RotateWebhookSecretRequest(name=_name(project, endpoint), request_id=request_id)
        made = await self._ask("RotateWebhookSecret", request, authorization)
        return {**_json(made.webhook_endpoint), "secret": made.secret}

    async def delete(self, project: str, endpoint: str, *, request_id: str, authorization: str) -> None:
        request = pb.DeleteWebhookEndpointRequest(name=_name(project, endpoint), request_id=request_id)
        await self._ask("DeleteWebhookEndpoint", request, authorization)

    async def deliveries(
        self, project: str, endpoint: str, *, after: str, limit: int, authorization: str
    ) -> Mapping[str, Any]:
        request = pb.ListWebhookDeliveriesRequest(parent=_name(project, endpoint), page_size=limit, page_token=after)
        return _json(await self._ask("ListWebhookDeliveries", request, authorization))

    async def replay(
        self, project: str, endpoint: str, delivery: str, *, request_id: str, authorization: str
    ) -> Mapping[str, Any]:
        name = str(WebhookDeliveryName(project, endpoint, delivery))
        request = pb.ReplayWebhookDeliveryRequest(name=name, request_id=request_id)
        return _json((await self._ask("ReplayWebhookDelivery", request, authorization)).webhook_delivery)

    async def _ask(self, method: str, request: Message, authorization: str) -> Any:
        caller = Caller(authorization.partition(" ")[2])
        return await caller.unary(getattr(self._stub, method), request, getattr(pb, f"{method}Response"))


def _name(project: str, endpoint: str) -> str:
    return str(WebhookEndpointName(project, endpoint))


def _json(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
