"""Use cases of webhooks: endpoints, and deliveries that are tried until they arrive or are dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from mainspring_registry.domain.webhooks import (
    ANSWERED_GONE,
    BY_REQUEST,
    GONE,
    DeliveryState,
    Outcome,
    WebhookDelivery,
    WebhookEndpoint,
)
from mainspring_svckit.clock import Clock
from mainspring_svckit.crash import crash_point
from mainspring_svckit.errors import QuotaExceeded
from mainspring_svckit.names import WebhookDeliveryName, WebhookEndpointName
from mainspring_svckit.pagination import Page
from mainspring_svckit.ports import Claim, Transactions, Work
from mainspring_svckit.repository import Repository, Stored, require

WORK_KIND = "webhook-delivery"
MAX_ENDPOINTS = 50
KEPT = timedelta(days=30)
"""How long a delivery that has ended is shown."""

RETRY_DELAYS_S = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0)
"""After how many seconds a delivery is tried again, as Standard Webhooks 1.0 advises: for about two days."""


class WebhookSender(Protocol):
    """Posts to endpoints."""

    def check_url(self, url: str) -> None:
        """Raises InvalidInput (URL_NOT_ALLOWED) for an address that may not be reached."""
        ...

    async def send(self, delivery: WebhookDelivery, url: str, secrets: Sequence[str], now: datetime) -> Outcome:
        """Signs with every secret and posts once; whatever goes wrong is in the outcome."""
        ...


class Deliveries(Repository[WebhookDelivery], Protocol):
    """Deliveries, and how they are forgotten."""

    async def forget_endpoint(self, endpoint: str) -> None:
        """Forgets all of an endpoint."""
        ...

    async def forget_ended(self, before: datetime) -> int:
        """Forgets those that ended before then; returns how many."""
        ...


@dataclass(frozen=True)
class WebhookPorts:
    """Everything these use cases need."""

    transactions: Transactions
    endpoints: Repository[WebhookEndpoint]
    deliveries: Deliveries
    sender: WebhookSender
    new_secret: Callable[[], str]
    work: Work
    clock: Clock
    retry_delays_s: Sequence[float] = RETRY_DELAYS_S


@dataclass(frozen=True)
class HeardEvent:
    """An event as it is posted."""

    id: str
    type: str
    subject: str
    project: str
    body: str


class Webhooks:
    """Use cases of endpoints and deliveries."""

    def __init__(self, ports: WebhookPorts) -> None:
        self._ports = ports

    async def create(self, name: WebhookEndpointName, url: str, event_types: Sequence[str]) -> Stored[WebhookEndpoint]:
        """Makes an endpoint with a secret.

        Raises:
            InvalidInput: URL_NOT_ALLOWED.
            AlreadyExists: There is one of that name.
            QuotaExceeded: The project has as many as it may have.
        """
        ports = self._ports
        ports.sender.check_url(url)
        made = WebhookEndpoint(str(name), url, tuple(event_types), ports.clock.now(), ports.new_secret())
        async with ports.transactions.transaction():
            if len(await self._endpoints(f"projects/{name.project}")) >= MAX_ENDPOINTS:
                message = f"a project has at most {MAX_ENDPOINTS} webhook endpoints; delete one that is not used"
                raise QuotaExceeded("WEBHOOK_ENDPOINTS_EXHAUSTED", message)
            return await ports.endpoints.add(made)

    async def update(
        self, name: str, url: str, event_types: Sequence[str], *, disabled: bool, etag: str
    ) -> tuple[Stored[WebhookEndpoint], bool]:
        """Changes an endpoint; the second value says whether it got a new secret.

        Raises:
            NotFound: There is none.
            InvalidInput: URL_NOT_ALLOWED.
            EtagMismatch: Somebody wrote it since `etag` was read.
        """
        ports = self._ports
        ports.sender.check_url(url)
        async with ports.transactions.transaction():
            known = (await require(ports.endpoints, "WebhookEndpoint", name, lock=True)).value
            moved = url != known.url
            changed = known.moved(url, ports.new_secret()) if moved else known
            changed = replace(changed, event_types=tuple(event_types), disabled_reason=BY_REQUEST if disabled else "")
            return await ports.endpoints.put(changed, etag=etag), moved

    async def rotate(self, name: str) -> Stored[WebhookEndpoint]:
        """Gives an endpoint a new secret; the old one signs too for a day."""
        ports = self._ports
        async with ports.transactions.transaction():
            known = (await require(ports.endpoints, "WebhookEndpoint", name, lock=True)).value
            return await ports.endpoints.put(known.rotated(ports.new_secret(), ports.clock.now()))

    async def delete(self, name: str) -> None:
        """Removes an endpoint and all its deliveries."""
        ports = self._ports
        async with ports.transactions.transaction():
            await require(ports.endpoints, "WebhookEndpoint", name, lock=True)
            await ports.deliveries.forget_endpoint(name)
            await ports.endpoints.remove(name)

    async def take_in(self, event: HeardEvent) -> None:
        """Queues a delivery for each endpoint that wants the event. Joins the ambient transaction."""
        ports = self._ports
        for endpoint in await self._endpoints(f"projects/{event.project}"):
            if not endpoint.wants(event.type):
                continue
            owner = WebhookEndpointName.parse(endpoint.name)
            now = ports.clock.now()
            name = str(WebhookDeliveryName(owner.project, owner.endpoint, event.id))
            if await ports.deliveries.get(name) is not None:
                continue
            await ports.deliveries.put(
                WebhookDelivery(
                    name, endpoint.name, event.id, event.type, event.subject, event.body, now, next_attempt_time=now
                )
            )
            await ports.work.enqueue(WORK_KIND, name)

    async def deliver(self, name: str, lease: Claim) -> None:
        """Makes one attempt. The message may arrive and the commit be lost: then it is sent again, with the same id."""
        ports = self._ports
        async with ports.transactions.transaction():
            delivery = await ports.deliveries.get(name)
            endpoint = await ports.endpoints.get(delivery.value.endpoint) if delivery is not None else None
        if delivery is None or delivery.value.state is not DeliveryState.PENDING:
            async with lease.complete():
                return
        if endpoint is None or endpoint.value.disabled_reason:
            async with lease.complete():
                await ports.deliveries.put(delivery.value.dead("the endpoint is disabled", ports.clock.now()))
            return
        now = ports.clock.now()
        outcome = await ports.sender.send(delivery.value, endpoint.value.url, endpoint.value.secrets(now), now)
        crash_point("webhook-delivery:after-send")
        async with lease.complete():
            await self._record(name, outcome)

    async def _record(self, name: str, outcome: Outcome) -> None:
        ports = self._ports
        stored = await ports.deliveries.get(name, lock=True)
        if stored is None:
            return  # The endpoint was removed while it was asked.
        now = ports.clock.now()
        delivery = stored.value.attempted(outcome, now, ports.retry_delays_s)
        await ports.deliveries.put(delivery)
        if delivery.next_attempt_time is not None:
            delay_s = (delivery.next_attempt_time - now).total_seconds()
            await ports.work.enqueue(WORK_KIND, name, delay_s=delay_s)
        if outcome.status == GONE:
            endpoint = await ports.endpoints.get(delivery.endpoint, lock=True)
            if endpoint is not None:
                await ports.endpoints.put(replace(endpoint.value, disabled_reason=ANSWERED_GONE))

    async def give_up(self, name: str, message: str) -> None:
        """Makes a delivery that cannot be tried a dead letter. Joins the ambient transaction."""
        stored = await self._ports.deliveries.get(name, lock=True)
        if stored is not None and stored.value.state is DeliveryState.PENDING:
            await self._ports.deliveries.put(stored.value.dead(message, self._ports.clock.now()))

    async def replay(self, name: str) -> WebhookDelivery:
        """Sends a dead letter again.

        Raises:
            NotFound: There is no such delivery.
            IllegalTransition: It is not dead.
        """
        ports = self._ports
        async with ports.transactions.transaction():
            known = (await require(ports.deliveries, "WebhookDelivery", name, lock=True)).value
            again = (await ports.deliveries.put(known.replayed(ports.clock.now()))).value
            await ports.work.enqueue(WORK_KIND, name)
            return again

    async def forget_old(self) -> int:
        """Forgets deliveries that ended long ago; returns how many."""
        async with self._ports.transactions.transaction():
            return await self._ports.deliveries.forget_ended(self._ports.clock.now() - KEPT)

    async def _endpoints(self, project: str) -> list[WebhookEndpoint]:
        listed = await self._ports.endpoints.list(project, Page(MAX_ENDPOINTS, None))
        return [stored.value for stored in listed.items]
