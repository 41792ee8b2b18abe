"""The events that webhooks pass on."""

from __future__ import annotations

import json
from datetime import UTC

from mainspring_eventkit.cloudevents import Event, encode_body
from mainspring_registry.application.webhooks import HeardEvent, Webhooks

NEVER_SENT = ("mainspring.inference.response.", "mainspring.feedback.")
"""Events about single answers stay inside."""


class WebhookReactions:
    """Hears what endpoints may want to be told of."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def on_any(self, event: Event) -> None:
        """Something happened: it is queued for whoever wants to be told."""
        if event.type.startswith(NEVER_SENT):
            return
        heard = HeardEvent(event.id, event.type, event.subject, event.project, body_of(event))
        await self._webhooks.take_in(heard)


def body_of(event: Event) -> str:
    """What is posted: `type`, `timestamp` and `data` of Standard Webhooks; the data is the event's JSON."""
    timestamp = event.time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    data = json.loads(encode_body(event.data))
    return json.dumps({"type": event.type, "timestamp": timestamp, "data": data}, ensure_ascii=False)
