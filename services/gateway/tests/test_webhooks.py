"""Webhooks by HTTP: the routes over the real client, with an object of the test as the registry behind it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pytest

from mainspring.registry.v1 import webhook_pb2
from mainspring.registry.v1 import webhook_service_pb2 as pb
from mainspring_gateway.adapters.webhooks import WebhookClient
from mainspring_gateway.transport.app import make_app
from mainspring_gateway.transport.webhooks import webhook_router
from mainspring_svckit.auth import TokenVerifier, current_principal
from mainspring_svckit.errors import NotFound
from mainspring_svckit.health import Health
from mainspring_svckit.ids import new_id
from mainspring_testkit.neighbours import ServeNeighbours
from mainspring_testkit.plugin import Token

NAME = "projects/p/webhookEndpoints/ops"
ENDPOINT = webhook_pb2.WebhookEndpoint(
    name=NAME, url="https://hooks.example/", state=webhook_pb2.WebhookEndpoint.STATE_ACTIVE
)
DELIVERY = webhook_pb2.WebhookDelivery(
    name=f"{NAME}/deliveries/e-1", event_id="e-1", state=webhook_pb2.WebhookDelivery.STATE_DEAD, attempts=9
)


class Registry:
    """The registry's webhook service, which remembers what it was asked and by whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def _note(self, request: Any) -> None:
        self.asked.append((current_principal.get().subject, request))

    async def CreateWebhookEndpoint(self, request: Any, context: Any) -> Any:
        self._note(request)
        return pb.CreateWebhookEndpointResponse(webhook_endpoint=ENDPOINT, secret="whsec_s")

    async def ListWebhookEndpoints(self, request: Any, context: Any) -> Any:
        self._note(request)
        return pb.ListWebhookEndpointsResponse(webhook_endpoints=[ENDPOINT], next_page_token="more")

    async def GetWebhookEndpoint(self, request: Any, context: Any) -> Any:
        if request.name != NAME:
            raise NotFound("WebhookEndpoint", request.name)
        return pb.GetWebhookEndpointResponse(webhook_endpoint=ENDPOINT)

    async def UpdateWebhookEndpoint(self, request: Any, context: Any) -> Any:
        self._note(request)
        secret = "" if request.webhook_endpoint.url == ENDPOINT.url else "whsec_u"
        return pb.UpdateWebhookEndpointResponse(webhook_endpoint=ENDPOINT, secret=secret)

    async def RotateWebhookSecret(self, request: Any, context: Any) -> Any:
        return pb.RotateWebhookSecretResponse(webhook_endpoint=ENDPOINT, secret="whsec_t")

    async def DeleteWebhookEndpoint(self, request: Any, context: Any) -> Any:
        self._note(request)
        return pb.DeleteWebhookEndpointResponse()

    async def ListWebhookDeliveries(self, request: Any, context: Any) -> Any:
        return pb.ListWebhookDeliveriesResponse(webhook_deliveries=[DELIVERY])

    async def ReplayWebhookDelivery(self, request: Any, context: Any) -> Any:
        self._note(request)
        return pb.ReplayWebhookDeliveryResponse(webhook_delivery=DELIVERY)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def http(registry: Registry, neighbours: ServeNeighbours, verifier: TokenVerifier) -> AsyncIterator[Any]:
    behind = await neighbours(registry, "registry.v1.WebhookService")
    app: Any = make_app([webhook_router(verifier, WebhookClient(behind.channel))], Health())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


def as_(token: Token, *roles: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token(*roles)}"}


async def test_an_endpoint_is_made_in_the_callers_name_and_its_secret_shown_once(
    http: Any, registry: Registry, token: Token
) -> None:
    key = new_id()
    body = {"id": "ops", "url": "https://hooks.example/"}
    made = await http.post("/v1/webhooks", json=body, headers={**as_(token, "admin"), "idempotency-key": key})
    assert made.status_code == 201
    assert made.json()["object"] == "webhook_endpoint"
    assert (made.json()["id"], made.json()["state"], made.json()["secret"]) == ("ops", "active", "whsec_s")
    ((subject, request),) = registry.asked
    assert subject == "tester"
    assert (request.parent, request.webhook_endpoint_id, request.request_id) == ("projects/p", "ops", key)
    shown = await http.get("/v1/webhooks/ops", headers=as_(token, "viewer"))
    assert "secret" not in shown.json()
    rotated = await http.post("/v1/webhooks/ops/rotate_secret", headers=as_(token, "admin"))
    assert rotated.json()["secret"] == "whsec_t"


async def test_an_endpoint_that_was_disabled_is_enabled_and_another_address_gets_another_secret(
    http: Any, registry: Registry, token: Token
) -> None:
    admin = as_(token, "admin")
    same = await http.put("/v1/webhooks/ops", json={"url": ENDPOINT.url, "disabled": True}, headers=admin)
    assert (same.status_code, "secret" in same.json()) == (200, False)
    types = ["mainspring.registry.model.released.v1"]
    moved = await http.put(
        "/v1/webhooks/ops", json={"url": "https://new.example/", "event_types": types}, headers=admin
    )
    assert moved.json()["secret"] == "whsec_u"
    first, second = (request.webhook_endpoint for _, request in registry.asked)
    assert (first.name, first.disabled, second.disabled) == (NAME, True, False)
    assert list(second.event_types) == types


async def test_lists_go_by_cursor_and_dead_letters_are_replayed(http: Any, registry: Registry, token: Token) -> None:
    listed = await http.get("/v1/webhooks", params={"after": "t", "limit": 7}, headers=as_(token, "viewer"))
    assert (listed.json()["has_more"], listed.json()["next"]) == (True, "more")
    assert (registry.asked[0][1].page_token, registry.asked[0][1].page_size) == ("t", 7)
    letters = (await http.get("/v1/webhooks/ops/deliveries", headers=as_(token, "viewer"))).json()
    assert [(one["id"], one["state"]) for one in letters["data"]] == [("e-1", "dead")]
    assert letters["has_more"] is False
    replayed = await http.post("/v1/webhooks/ops/deliveries/e-1/replay", headers=as_(token, "admin"))
    assert replayed.status_code == 202
    assert registry.asked[-1][1].name == f"{NAME}/deliveries/e-1"
    removed = await http.delete("/v1/webhooks/ops", headers=as_(token, "admin"))
    assert removed.json()["deleted"] is True


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("POST", "/v1/webhooks", "contributor"),
        ("POST", "/v1/webhooks/ops/rotate_secret", "contributor"),
        ("PUT", "/v1/webhooks/ops", "contributor"),
        ("DELETE", "/v1/webhooks/ops", "contributor"),
        ("POST", "/v1/webhooks/ops/deliveries/e/replay", "contributor"),
    ],
)
async def test_a1_lower_roles_and_nobody_are_refused(
    http: Any, registry: Registry, token: Token, method: str, path: str, role: str
) -> None:
    body = {"id": "ops", "url": "https://hooks.example/"} if path == "/v1/webhooks" else None
    assert (await http.request(method, path, json=body, headers=as_(token, role))).status_code == 403
    assert (await http.request(method, path, json=body)).status_code == 401
    assert not registry.asked


async def test_ids_that_are_none_and_endpoints_that_are_not_there(http: Any, token: Token) -> None:
    assert (await http.get("/v1/webhooks/other", headers=as_(token, "viewer"))).status_code == 404
    assert (await http.get("/v1/webhooks/No..Id", headers=as_(token, "viewer"))).status_code == 400
