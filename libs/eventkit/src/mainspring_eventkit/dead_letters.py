"""Dead letters: events that a consumer gave up, kept whole with the reason, to be looked at and replayed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.js.errors
from nats.aio.msg import Msg

from mainspring_eventkit.bus import Bus
from mainspring_eventkit.cloudevents import percent_decode, percent_encode
from mainspring_eventkit.topology import DLQ_STREAM
from mainspring_svckit.errors import NotFound, PreconditionFailed

SUBJECT = "mainspring.dlq"
_MAX_DETAIL = 1000


@dataclass(frozen=True)
class DeadLetter:
    """One event that a consumer gave up.

    Attributes:
        sequence: Its place in the dead-letter stream; names it in commands.
        consumer: Who gave it up.
        reason: Stable reason.
        detail: The reason in words.
        attempts: Deliveries.
        first_seen: When it was first published.
        headers: The event's own headers.
        body: The event's own body.
        subject: Where it was published.
    """

    sequence: int
    consumer: str
    reason: str
    detail: str
    attempts: int
    first_seen: str
    headers: dict[str, str]
    body: bytes
    subject: str


async def bury(bus: Bus, consumer: str, message: Msg, reason: str, detail: str) -> None:
    """Copies a delivery into the dead-letter stream and waits until that has it.

    Raises:
        Unavailable: The stream did not take it; the event must not be ended yet.
    """
    metadata = message.metadata
    headers = {key: value for key, value in (message.headers or {}).items() if key.lower() != "nats-msg-id"}
    headers |= {
        "dlq-consumer": consumer,
        "dlq-reason": reason,
        "dlq-detail": percent_encode(detail[:_MAX_DETAIL]),
        "dlq-attempts": str(metadata.num_delivered or 1),
        "dlq-first-seen": (metadata.timestamp or datetime.now(UTC)).isoformat(),
        "dlq-subject": message.subject,
    }
    # The place in the event stream makes a repeat of this copy one dead letter.
    message_id = f"{consumer}:{metadata.sequence.stream}:{metadata.num_delivered}"
    await bus.publish(f"{SUBJECT}.{consumer}", message.data, headers, message_id=message_id)


async def list_dead(bus: Bus) -> AsyncIterator[DeadLetter]:
    """All dead letters, oldest first."""
    state = await bus.stream(DLQ_STREAM)
    for sequence in range(max(1, state.first), state.last + 1):
        try:
            yield await show_dead(bus, sequence)
        except NotFound:
            continue


async def show_dead(bus: Bus, sequence: int) -> DeadLetter:
    """One dead letter.

    Raises:
        NotFound: There is none at that place, or no more.
    """
    try:
        message = await bus.jetstream.get_msg(DLQ_STREAM, sequence)
    except nats.js.errors.NotFoundError as err:
        raise NotFound("DeadLetter", str(sequence)) from err
    headers = dict(message.headers or {})
    about = {key: headers.pop(key, "") for key in list(headers) if key.startswith("dlq-")}
    headers.pop("Nats-Msg-Id", None)
    return DeadLetter(
        sequence=sequence,
        consumer=about.get("dlq-consumer", ""),
        reason=about.get("dlq-reason", ""),
        detail=percent_decode(about.get("dlq-detail", "")),
        attempts=int(about.get("dlq-attempts") or 0),
        first_seen=about.get("dlq-first-seen", ""),
        headers=headers,
        body=message.data or b"",
        subject=about.get("dlq-subject", ""),
    )


async def replay_dead(bus: Bus, sequence: int) -> None:
    """Publishes a dead letter's event again and removes the dead letter.

    Every consumer gets it; those that have handled the event know its id and do nothing.

    Raises:
        NotFound: As `show_dead`.
        PreconditionFailed: It does not say where it was published.
    """
    letter = await show_dead(bus, sequence)
    if not letter.subject:
        raise PreconditionFailed("DEAD_LETTER_WITHOUT_SUBJECT", f"dead letter {sequence} does not say where it belongs")
    await bus.publish(letter.subject, letter.body, letter.headers, message_id=f"replay:{sequence}:{letter.first_seen}")
    await bus.jetstream.delete_msg(DLQ_STREAM, sequence)
