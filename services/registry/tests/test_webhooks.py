"""Webhooks: rules over fakes, and the service with a receiver that checks signatures as any receiver would."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from mainspring.events.v1.registry_events_pb2 import ModelReleased
from mainspring.registry.v1 import webhook_pb2
from mainspring.registry.v1 import webhook_service_pb2 as pb
from mainspring.registry.v1 import webhook_service_pb2_grpc as pb_grpc
from mainspring_eventkit.bus import Bus
from mainspring_registry.adapters.webhooks import HttpSender, new_secret
from mainspring_registry.application.webhooks import RETRY_DELAYS_S, HeardEvent, WebhookPorts, Webhooks
from mainspring_registry.domain.webhooks import (
    DELIVERY_STATES,
    ENDPOINT_STATES,
    RELEASE_EVENTS,
    DeliveryState,
    Outcome,
    WebhookDelivery,
    WebhookEndpoint,
)
from mainspring_svckit.errors import (
    AlreadyExists,
    IllegalTransition,
    InvalidInput,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
)
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import WebhookEndpointName
from mainspring_testkit.contracts.states import assert_as_declared
from mainspring_testkit.events import publish
from mainspring_testkit.fakes import FakeClock, FakeLease, FakeRepository, FakeTransactions, FakeWork
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.waiting import eventually

RELEASED = "mainspring.registry.model.released.v1"
ENDPOINT = "projects/p/webhookEndpoints/ops"
URL = "https://hooks.example/mainspring"


def test_states_are_as_the_contract_says() -> None:
    assert_as_declared(DELIVERY_STATES, "registry/v1/webhook.proto", "WebhookDelivery")
    assert_as_declared(ENDPOINT_STATES, "registry/v1/webhook.proto", "WebhookEndpoint")


class FakeDeliveries(FakeRepository[WebhookDelivery]):
    def __init__(self) -> None:
        super().__init__(parent=lambda d: d.endpoint, sort_key=lambda d: d.event_id, newest_first=True)

    async def forget_endpoint(self, endpoint: str) -> None:
        self.rows = {name: row for name, row in self.rows.items() if row.value.endpoint != endpoint}

    async def forget_ended(self, before: datetime) -> int:
        old = [n for n, r in self.rows.items() if r.value.end_time is not None and r.value.end_time < before]
        for name in old:
            del self.rows[name]
        return len(old)


class FakeSender:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.sent: list[tuple[str, str, tuple[str, ...]]] = []

    def check_url(self, url: str) -> None:
        if not url.startswith("https://"):
            raise InvalidInput("no", reason="URL_NOT_ALLOWED")

    async def send(self, delivery: WebhookDelivery, url: str, secrets: Sequence[str], now: datetime) -> Outcome:
        self.sent.append((delivery.event_id, url, tuple(secrets)))
        return self.outcomes.pop(0) if self.outcomes else Outcome(200)


class World:
    def __init__(self) -> None:
        self.clock, self.sender, self.work = FakeClock(), FakeSender(), FakeWork()
        self.endpoints = FakeRepository[WebhookEndpoint](
            parent=lambda e: e.name.split("/webhook")[0], sort_key=lambda e: e.name
        )
        self.deliveries = FakeDeliveries()
        numbers = iter(range(100))
        self.webhooks = Webhooks(
            WebhookPorts(
                FakeTransactions(),
                self.endpoints,
                self.deliveries,
                self.sender,
                lambda: f"whsec_{next(numbers)}",
                self.work,
                self.clock,
            )
        )

    async def endpoint(self, **fields: Any) -> WebhookEndpoint:
        name = WebhookEndpointName.parse(ENDPOINT)
        return (await self.webhooks.create(name, fields.get("url", URL), fields.get("event_types", ()))).value

    async def event(self, number: int = 1, event_type: str = RELEASED, project: str = "p") -> str:
        event_id = f"00000000-0000-7000-8000-{number:012}"
        await self.webhooks.take_in(HeardEvent(event_id, event_type, "projects/p/models/m", project, "{}"))
        return f"{ENDPOINT}/deliveries/{event_id}"

    async def attempt(self, name: str) -> WebhookDelivery:
        await self.webhooks.deliver(name, FakeLease())
        return self.deliveries.rows[name].value


@pytest.fixture
def world() -> World:
    return World()


async def test_an_event_is_queued_for_those_who_want_it_and_once(world: World) -> None:
    await world.endpoint()
    names = {await world.event(), await world.event()}
    await world.event(2, "mainspring.evaluation.run.completed.v1")
    await world.event(3, project="other")
    assert set(world.deliveries.rows) == names
    assert [key for _, key in world.work.queued] == list(names)


async def test_a_delivery_is_tried_for_two_days_and_then_a_dead_letter(world: World) -> None:
    await world.endpoint()
    name = await world.event()
    waits = list[float]()
    for _ in RETRY_DELAYS_S:
        world.sender.outcomes = [Outcome(503, "the endpoint answered 503")]
        delivery = await world.attempt(name)
        assert delivery.state is DeliveryState.PENDING
        assert delivery.next_attempt_time is not None
        waits.append((delivery.next_attempt_time - world.clock.now()).total_seconds())
    assert waits == list(RETRY_DELAYS_S)
    assert timedelta(hours=36) < timedelta(seconds=sum(waits)) < timedelta(hours=72)
    world.sender.outcomes = [Outcome(0, "no answer")]
    dead = await world.attempt(name)
    assert (dead.state, dead.attempts, dead.last_error) == (DeliveryState.DEAD, len(RETRY_DELAYS_S) + 1, "no answer")
    again = await world.webhooks.replay(name)
    assert (again.state, again.attempts) == (DeliveryState.PENDING, 0)
    delivered = await world.attempt(name)
    assert delivered.state is DeliveryState.DELIVERED
    with pytest.raises(IllegalTransition):
        await world.webhooks.replay(name)
    assert len({event_id for event_id, _, _ in world.sender.sent}) == 1, "the id is the same at every attempt"


async def test_an_endpoint_that_is_gone_is_told_nothing_more(world: World) -> None:
    await world.endpoint()
    first, second = await world.event(1), await world.event(2)
    world.sender.outcomes = [Outcome(410, "the endpoint answered 410")]
    assert (await world.attempt(first)).state is DeliveryState.DEAD
    assert (await world.endpoints.get(ENDPOINT)).value.disabled_reason == "GONE"  # type: ignore[union-attr]
    assert (await world.attempt(second)).state is DeliveryState.DEAD
    assert len(world.sender.sent) == 1
    await world.event(3)
    assert len(world.deliveries.rows) == 2


async def test_a9_another_address_gets_another_secret_and_never_the_old_one(world: World) -> None:
    made = await world.endpoint()
    rotated = (await world.webhooks.rotate(ENDPOINT)).value
    assert rotated.secrets(world.clock.now()) == (rotated.secret, made.secret)
    assert rotated.secrets(world.clock.now() + timedelta(days=1)) == (rotated.secret,)
    stored, moved = await world.webhooks.update(
        ENDPOINT, "https://other.example/", RELEASE_EVENTS, disabled=False, etag=""
    )
    assert moved
    assert stored.value.secrets(world.clock.now()) == (stored.value.secret,)
    assert stored.value.secret not in (made.secret, rotated.secret)
    same, moved = await world.webhooks.update(ENDPOINT, "https://other.example/", (), disabled=True, etag="")
    assert not moved
    assert same.value.secret == stored.value.secret
    await world.event()
    assert not world.deliveries.rows, "a disabled endpoint is told nothing"


async def test_endpoints_are_bounded_named_once_and_removed_with_what_they_had(world: World) -> None:
    await world.endpoint()
    with pytest.raises(AlreadyExists):
        await world.endpoint()
    with pytest.raises(InvalidInput):
        await world.webhooks.create(WebhookEndpointName("p", "x"), "http://inside/", ())
    for number in range(49):
        await world.webhooks.create(WebhookEndpointName("p", f"e{number}"), URL, ())
    with pytest.raises(QuotaExceeded):
        await world.webhooks.create(WebhookEndpointName("p", "one-more"), URL, ())
    name = await world.event()
    await world.webhooks.delete(ENDPOINT)
    assert name not in world.deliveries.rows
    await world.webhooks.deliver(name, FakeLease())  # The worker had it already: nothing happens.
    assert not world.sender.sent


async def test_what_ended_long_ago_is_forgotten(world: World) -> None:
    await world.endpoint()
    name = await world.event()
    await world.attempt(name)
    assert await world.webhooks.forget_old() == 0
    row = world.deliveries.rows[name]
    assert row.value.end_time is not None
    old = replace(row.value, end_time=row.value.end_time - timedelta(days=31))
    await world.deliveries.put(old)
    assert await world.webhooks.forget_old() == 1


class Receiver:
    """An endpoint of somebody's, on this machine."""

    def __init__(self) -> None:
        self.secret = ""
        self.statuses: list[int] = []
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def post(self, request: web.Request) -> web.Response:
        self.came.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(status=status, headers={"location": self.url} if status == 302 else {})

    def verified(self) -> list[Any]:
        """What came, each checked by the library that receivers use."""
        return [Webhook(self.secret).verify(body.decode(), headers_of(headers)) for headers, body in self.came]


def headers_of(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.post)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    ((_, port),) = runner.addresses
    made.url = f"http://127.0.0.1:{port}/hook"
    yield made
    await runner.cleanup()


async def sent_by(sender: HttpSender, url: str, secret: str) -> Outcome:
    now = datetime.now(UTC)
    delivery = WebhookDelivery("n", ENDPOINT, new_id(), RELEASED, "s", '{"a": "é"}', now)
    return await sender.send(delivery, url, [secret, new_secret()], now)


async def test_messages_are_signed_so_that_receivers_can_verify_them(receiver: Receiver) -> None:
    receiver.secret = new_secret()
    sender = HttpSender(allow_private=True)
    assert await sent_by(sender, receiver.url, receiver.secret) == Outcome(204)
    assert receiver.verified() == [{"a": "é"}]
    headers, body = receiver.came[0]
    with pytest.raises(WebhookVerificationError):
        Webhook(receiver.secret).verify((body + b" ").decode(), headers_of(headers))


async def test_b8_private_addresses_and_redirects_are_not_followed(receiver: Receiver) -> None:
    inside = await sent_by(HttpSender(), receiver.url, new_secret())
    assert inside.status == 0
    assert not receiver.came
    receiver.statuses = [302]
    redirected = await sent_by(HttpSender(allow_private=True), receiver.url, new_secret())
    assert (redirected.status, len(receiver.came)) == (302, 1)
    assert redirected.error
    nobody = await sent_by(HttpSender(allow_private=True), "http://127.0.0.1:1/", new_secret())
    assert nobody.status == 0
    assert "connection failed" in nobody.error


Replica = Callable[..., ServiceProcess]


@pytest.fixture
async def replica(surroundings: Surroundings, postgres: PostgresServer) -> Replica:
    database = await postgres.new_database("mainspring_registry")
    settings: dict[str, Any] = {"webhooks_to_private_addresses": True, "webhook_retry_delays_s": "[0.05, 0.05]"}
    return lambda: surroundings.replica("mainspring_registry.main", database, **settings)


class Caller:
    def __init__(self, surroundings: Surroundings, replica: ServiceProcess, *roles: str) -> None:
        self._caller, self._replica = surroundings.caller(*roles), replica

    async def __call__(self, method: str, **fields: Any) -> Any:
        stub: Any = pb_grpc.WebhookServiceStub(self._replica.channel)
        request = getattr(pb, f"{method}Request")(**fields)
        return await self._caller.unary(getattr(stub, method), request, getattr(pb, f"{method}Response"))


def released(number: int) -> ModelReleased:
    model = "projects/p/models/m"
    return ModelReleased(
        release=f"{model}/releases/{number}", model=model, model_version=f"{model}/versions/1", release_number=number
    )


async def test_a_release_reaches_an_endpoint_also_after_failures_and_dead_letters_are_replayed(
    surroundings: Surroundings, replica: Replica, bus: Bus, receiver: Receiver
) -> None:
    first, second = replica(), replica()
    await asyncio.gather(first.start(), second.start())
    call = Caller(surroundings, first, "admin")
    made = await call(
        "CreateWebhookEndpoint", parent="projects/p", webhook_endpoint_id="ops", url=receiver.url, request_id=new_id()
    )
    receiver.secret = made.secret
    assert "secret" not in str((await call("GetWebhookEndpoint", name=ENDPOINT)).webhook_endpoint)
    receiver.statuses = [500]
    event_id = await publish(bus, released(1))

    async def states() -> list[Any]:
        listed = await call("ListWebhookDeliveries", parent=ENDPOINT)
        return [delivery.state for delivery in listed.webhook_deliveries]

    async def delivered() -> bool:
        return await states() == [webhook_pb2.WebhookDelivery.STATE_DELIVERED]

    await eventually(delivered, within_s=40, what="the release to arrive")
    assert len(receiver.came) == 2
    (heard, _) = receiver.verified()
    assert heard["type"] == RELEASED
    assert heard["data"]["releaseNumber"] == "1"
    assert {headers_of(headers)["webhook-id"] for headers, _ in receiver.came} == {event_id}

    receiver.statuses = [500, 500, 500]
    await publish(bus, released(2))

    async def dead() -> Any:
        listed = (await call("ListWebhookDeliveries", parent=ENDPOINT)).webhook_deliveries
        return next((d for d in listed if d.state == webhook_pb2.WebhookDelivery.STATE_DEAD), None)

    letter = await eventually(dead, within_s=40, what="the delivery to be given up")
    assert (letter.attempts, letter.last_status) == (3, 500)
    await call("ReplayWebhookDelivery", name=letter.name)

    async def both() -> bool:
        return await states() == [webhook_pb2.WebhookDelivery.STATE_DELIVERED] * 2

    await eventually(both, within_s=40, what="the dead letter to arrive")
    assert json.loads(receiver.came[-1][1])["data"]["releaseNumber"] == "2"
    with pytest.raises(PermissionDenied):
        await Caller(surroundings, first, "contributor")("RotateWebhookSecret", name=ENDPOINT)
    with pytest.raises(NotFound):
        await call("GetWebhookEndpoint", name="projects/other/webhookEndpoints/ops")
    assert receiver.secret not in first.log + second.log


async def test_f1_killed_after_sending_the_message_comes_again_with_the_same_id(
    surroundings: Surroundings, replica: Replica, bus: Bus, receiver: Receiver
) -> None:
    first, second = replica(), replica()
    await first.start(MAINSPRING_CRASH_AT="webhook-delivery:after-send")
    made = await Caller(surroundings, first, "admin")(
        "CreateWebhookEndpoint", parent="projects/p", webhook_endpoint_id="ops", url=receiver.url
    )
    receiver.secret = made.secret
    await publish(bus, released(1))
    assert await first.wait() == 137
    await second.start()

    async def twice() -> bool:
        return len(receiver.came) >= 2

    # The lease of the killed replica runs out first.
    await eventually(twice, within_s=60, what="the message to come again")
    assert len({headers_of(headers)["webhook-id"] for headers, _ in receiver.came}) == 1
    assert receiver.verified()[0] == receiver.verified()[1]


async def test_addresses_and_types_are_checked_and_all_violations_told(
    surroundings: Surroundings, postgres: PostgresServer
) -> None:
    strict = surroundings.replica("mainspring_registry.main", await postgres.new_database("mainspring_registry"))
    await strict.start()
    call = Caller(surroundings, strict, "admin")
    with pytest.raises(InvalidInput) as caught:
        await call("CreateWebhookEndpoint", parent="projects/p", webhook_endpoint_id="x", url="http://127.0.0.1/")
    assert caught.value.reason == "URL_NOT_ALLOWED"
    types = ["mainspring.inference.response.completed.v1"]
    with pytest.raises(InvalidInput) as caught:
        await call("CreateWebhookEndpoint", parent="projects/p", webhook_endpoint_id="x", url=URL, event_types=types)
    assert "event_types" in [violation.field for violation in caught.value.violations]
