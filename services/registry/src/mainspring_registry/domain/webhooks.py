"""Webhooks: endpoints of people's programs, and events on their way to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from mainspring_svckit.states import StateMachine

RELEASE_EVENTS = ("mainspring.registry.model.release_revoked.v1", "mainspring.registry.model.released.v1")
"""What an endpoint is told of when it names nothing else."""

ROTATION = timedelta(days=1)
"""How long deliveries are signed with the secret before as well."""

GONE = 410
BY_REQUEST, ANSWERED_GONE = "BY_REQUEST", "GONE"


class EndpointState(StrEnum):
    """Whether an endpoint is told anything."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


ENDPOINT_STATES = StateMachine(
    {EndpointState.ACTIVE: {EndpointState.DISABLED}, EndpointState.DISABLED: {EndpointState.ACTIVE}}
)


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"


DELIVERY_STATES = StateMachine(
    {
        DeliveryState.PENDING: {DeliveryState.DELIVERED, DeliveryState.DEAD},
        DeliveryState.DELIVERED: set(),
        DeliveryState.DEAD: {DeliveryState.PENDING},
    }
)


@dataclass(frozen=True)
class WebhookEndpoint:
    """An address that is told of events.

    Attributes:
        secret: Key of the signatures, `whsec_` and base64; never shown again and never logged.
        previous_secret: The one before, which still signs until `previous_until`.
        disabled_reason: Empty while it is active.
    """

    name: str
    url: str
    event_types: tuple[str, ...]
    create_time: datetime
    secret: str
    previous_secret: str = ""
    previous_until: datetime | None = None
    disabled_reason: str = ""

    @property
    def state(self) -> EndpointState:
        """Whether it is told anything."""
        return EndpointState.DISABLED if self.disabled_reason else EndpointState.ACTIVE

    def wants(self, event_type: str) -> bool:
        """Whether an event of that type is sent to it."""
        return not self.disabled_reason and event_type in (self.event_types or RELEASE_EVENTS)

    def secrets(self, now: datetime) -> tuple[str, ...]:
        """The keys to sign with, the newest first."""
        if self.previous_secret and self.previous_until is not None and now < self.previous_until:
            return self.secret, self.previous_secret
        return (self.secret,)

    def rotated(self, secret: str, now: datetime) -> WebhookEndpoint:
        """With a new secret; the old one signs on for a day."""
        return replace(self, secret=secret, previous_secret=self.secret, previous_until=now + ROTATION)

    def moved(self, url: str, secret: str) -> WebhookEndpoint:
        """At another address, which never sees anything signed with the old secret."""
        return replace(self, url=url, secret=secret, previous_secret="", previous_until=None)


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt.

    Attributes:
        status: HTTP status; 0 when there was no answer.
        error: Why it failed, in words; empty when it was delivered.
    """

    status: int
    error: str = ""


@dataclass(frozen=True)
class WebhookDelivery:
    """One event for one endpoint. Its id is the event's, so an event is delivered to an endpoint as one message.

    Attributes:
        body: What is posted, byte for byte the same at every attempt.
    """

    name: str
    endpoint: str
    event_id: str
    event_type: str
    subject: str
    body: str
    create_time: datetime
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    last_status: int = 0
    last_error: str = ""
    next_attempt_time: datetime | None = None
    end_time: datetime | None = None

    def attempted(self, outcome: Outcome, now: datetime, delays_s: Sequence[float]) -> WebhookDelivery:
        """After an attempt: delivered, due again, or dead when the delays are used up or the endpoint is gone."""
        tried = replace(
            self,
            attempts=self.attempts + 1,
            last_status=outcome.status,
            last_error=outcome.error,
            next_attempt_time=None,
        )
        if not outcome.error:
            return replace(tried, state=DeliveryState.DELIVERED, end_time=now)
        if outcome.status == GONE or tried.attempts > len(delays_s):
            return tried.dead(outcome.error, now)
        return replace(tried, next_attempt_time=now + timedelta(seconds=delays_s[tried.attempts - 1]))

    def dead(self, why: str, now: datetime) -> WebhookDelivery:
        """Given up."""
        DELIVERY_STATES.check(self.name, self.state, DeliveryState.DEAD)
        return replace(self, state=DeliveryState.DEAD, last_error=why, next_attempt_time=None, end_time=now)

    def replayed(self, now: datetime) -> WebhookDelivery:
        """On its way again with a full set of attempts."""
        DELIVERY_STATES.check(self.name, self.state, DeliveryState.PENDING)
        return replace(self, state=DeliveryState.PENDING, attempts=0, next_attempt_time=now, end_time=None)
