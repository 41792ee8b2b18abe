"""Webhooks on Postgres, and out to the world: signed as Standard Webhooks 1.0 wants it, to public addresses only."""

from __future__ import annotations

import base64
import secrets as randomness
from collections.abc import Sequence
from datetime import datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from sqlalchemy import text
from standardwebhooks.webhooks import Webhook

from mainspring_registry.domain.webhooks import Outcome, WebhookDelivery, WebhookEndpoint
from mainspring_svckit.database import Database
from mainspring_svckit.documents import Documents
from mainspring_svckit.egress import AddressRefused, check_url, http_session
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import project_name_of

TIMEOUT_S = 20.0
_TABLE = "webhook_delivery"


def new_secret() -> str:
    """A key of 24 random bytes."""
    return "whsec_" + base64.b64encode(randomness.token_bytes(24)).decode()


def endpoints(database: Database) -> Documents[WebhookEndpoint]:
    """Endpoints of a project, listed by name."""
    return Documents(
        database,
        "webhook_endpoint",
        WebhookEndpoint,
        parent=lambda e: project_name_of(e.name),
        sort_key=lambda e: e.name,
    )


class PostgresDeliveries(Documents[WebhookDelivery]):
    """`Deliveries` of an endpoint, newest first; ids of events go by time."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database,
            _TABLE,
            WebhookDelivery,
            parent=lambda d: d.endpoint,
            sort_key=lambda d: d.event_id,
            newest_first=True,
        )
        self._connection = database.connection

    async def forget_endpoint(self, endpoint: str) -> None:
        await self._connection().execute(
            text("DELETE FROM webhook_delivery WHERE parent = :endpoint"), {"endpoint": endpoint}
        )

    async def forget_ended(self, before: datetime) -> int:
        done = await self._connection().execute(
            text("DELETE FROM webhook_delivery WHERE body ->> 'state' <> 'PENDING' AND update_time < :before"),
            {"before": before},
        )
        return done.rowcount


class HttpSender:
    """`WebhookSender` by aiohttp: one POST, no redirects, the answer's body is not read."""

    def __init__(self, *, allow_private: bool = False, resolver: AbstractResolver | None = None) -> None:
        """Takes whether addresses that are not public may be reached, and a resolver instead of the system's."""
        self._allow_private, self._resolver = allow_private, resolver

    def check_url(self, url: str) -> None:
        check_url(url, allow_private=self._allow_private)

    async def send(self, delivery: WebhookDelivery, url: str, secrets: Sequence[str], now: datetime) -> Outcome:
        signatures = " ".join(Webhook(secret).sign(delivery.event_id, now, delivery.body) for secret in secrets)
        headers = {
            "content-type": "application/json",
            "user-agent": "Mainspring-Webhooks",
            "webhook-id": delivery.event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signatures,
        }
        try:
            self.check_url(url)  # What may be reached may have changed since the endpoint was made.
            async with http_session(
                allow_private=self._allow_private, timeout_s=TIMEOUT_S, resolver=self._resolver
            ) as session:
                body = delivery.body.encode()
                async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                    status = answer.status
        except InvalidInput as err:
            return Outcome(0, err.message)
        except aiohttp.ClientConnectorDNSError as err:
            refused = isinstance(err.os_error, AddressRefused)
            return Outcome(0, str(err.os_error) if refused else "the host's name has no address")
        except aiohttp.ClientSSLError:
            return Outcome(0, "the host has no valid certificate")
        except TimeoutError:
            return Outcome(0, f"no answer within {TIMEOUT_S:.0f} s")
        except (aiohttp.ClientError, OSError, ValueError) as err:
            return Outcome(0, f"the connection failed ({type(err).__name__})")
        if 200 <= status < 300:
            return Outcome(status)
        return Outcome(status, f"the endpoint answered {status}")
