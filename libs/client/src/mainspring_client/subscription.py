"""Events for programs outside: each once, in order per model, also those that came while nobody listened.

A durable subscription is a consumer of its own on the bus; it remembers its place there. Without a name, the place is
kept in this process only. One event is handed out at a time, and the next only when the one before is acknowledged, so
that a redelivery cannot overtake.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from mainspring_eventkit.bus import Bus, cancellation_kept
from mainspring_eventkit.catalog import event_messages, subject_of
from mainspring_eventkit.cloudevents import Event, UndecodableEvent, decode
from mainspring_eventkit.topology import EVENTS_STREAM
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.names import is_id

RELEASE_EVENTS = (
    "mainspring.registry.model.released.v1",
    "mainspring.registry.model.release_revoked.v1",
)
"""What a backend that follows releases needs to hear."""

PULL_S = 10.0
ACK_WAIT_S = 30.0
ACK_TRY_S = 2.0
_IDS_KEPT = 10_000
_FORGOTTEN_AFTER_S = 300.0


async def subscribe(
    nats_url: str,
    project: str,
    types: Sequence[str] = RELEASE_EVENTS,
    *,
    durable: str | None = None,
    since: datetime | None = None,
    limit: int = 0,
) -> AsyncIterator[Event]:
    """Events of a project as they happen, for as long as the iterator is followed.

    An event counts as handled when the next one is asked for. One that was not handled before the program ended comes
    again, to a durable subscription: at once after `aclose()`, after half a minute when the program crashed. The same
    id is not handed out twice by one iterator.

    Args:
        nats_url: Servers, with the subscriber's user and password.
        project: Project id.
        types: CloudEvents types, or patterns that end in `>`.
        durable: Name under which the bus remembers what was handled; of letters, digits, `-` and `_`.
        since: Where a new subscription begins; default: now. Before the oldest kept event it begins there.
        limit: End after so many events, all handled; 0 does not end.

    Raises:
        InvalidInput: A type or the name is not valid.
        PreconditionFailed: NATS_URL_MISSING, or SUBSCRIPTION_REFUSED, these events are not for this user.
        Unavailable: No server answers at the start; later ones are waited for.
    """
    _check(project, types, durable)
    if not nats_url:
        raise PreconditionFailed(
            "NATS_URL_MISSING", "set MAINSPRING_NATS_URL or pass nats_url; a data folder has it in nats-subscriber-url"
        )
    bus = await Bus.connect(nats_url, name=f"mainspring-subscriber-{durable or os.getpid()}", wait_s=20)
    try:
        consumer = _Consumer(bus, _filter(project, types), durable, since)
        seen: OrderedDict[str, None] = OrderedDict()
        given = 0
        while not limit or given < limit:
            message = await consumer.next()
            if message is None:
                continue
            try:
                event = decode(message.headers, message.data)
            except UndecodableEvent:
                await consumer.done(message)  # A newer release tells something that this one has never heard of.
                continue
            if event.id not in seen and _wanted(event.type, types):
                try:
                    yield event
                except GeneratorExit:
                    await consumer.give_back(message)
                    raise
                given += 1
                seen[event.id] = None
                if len(seen) > _IDS_KEPT:
                    seen.popitem(last=False)
            await consumer.done(message)
    finally:
        await bus.close()


class _Consumer:
    """A consumer of our own on the event stream, made again when the server has lost it."""

    def __init__(self, bus: Bus, subject: str, durable: str | None, since: datetime | None) -> None:
        self._client, self._js = bus.client, bus.jetstream
        self._subject, self._durable = subject, durable
        # From now on means: from when the caller began, not from when the server was first reached.
        self._begin = since or datetime.now(UTC)
        self._last_sequence = 0
        self._opened = False
        self._pull: JetStreamContext.PullSubscription | None = None

    async def next(self) -> Msg | None:
        """The next message; None when there was none for a while."""
        try:
            if self._pull is None:
                self._pull = await self._open()
            with cancellation_kept():
                (message,) = await self._pull.fetch(1, timeout=PULL_S, heartbeat=PULL_S / 4)
        except (nats.js.errors.FetchTimeoutError, nats.errors.TimeoutError, TimeoutError):
            await self._check_alive()
            return None
        except (nats.errors.Error, nats.js.errors.Error):
            await self._close()
            await asyncio.sleep(0.5)
            return None
        return message

    async def done(self, message: Msg) -> None:
        """Acknowledges, again while the bus is away; a message that it has not heard of would hold the others up.

        When the acknowledgement is lost all the same, the message comes again and its id is known.
        """
        self._last_sequence = message.metadata.sequence.stream
        for _ in range(int(ACK_WAIT_S / ACK_TRY_S)):
            try:
                with cancellation_kept():
                    await message.ack_sync(timeout=ACK_TRY_S)
            except (nats.errors.TimeoutError, TimeoutError):
                continue
            except nats.errors.Error:  # Its consumer is gone.
                pass
            return

    async def give_back(self, message: Msg) -> None:
        """Asks for the message to be delivered again at once, to whoever subscribes next under our name."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await message.nak()
            await self._client.flush(timeout=2)

    async def _open(self) -> JetStreamContext.PullSubscription:
        name = self._durable or f"ephemeral-{os.urandom(8).hex()}"
        try:
            info = await self._js.consumer_info(EVENTS_STREAM, name) if self._durable else None
        except nats.js.errors.NotFoundError:
            info = None
        if info is None or info.config.filter_subject != self._subject:
            await self._create(name)
        self._opened = True
        return await self._js.pull_subscribe_bind(name, EVENTS_STREAM)

    async def _create(self, name: str) -> None:
        config = api.ConsumerConfig(
            name=name,
            durable_name=self._durable,
            filter_subject=self._subject,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_deliver=-1,
            # One at a time, so that a redelivery cannot come after a later event.
            max_ack_pending=1,
            inactive_threshold=None if self._durable else _FORGOTTEN_AFTER_S,
        )
        if self._last_sequence and not self._durable:
            config.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
            config.opt_start_seq = self._last_sequence + 1
        else:
            config.deliver_policy = api.DeliverPolicy.BY_START_TIME
            config.opt_start_time = self._begin
        try:
            await self._js.add_consumer(EVENTS_STREAM, config)
        except (nats.errors.TimeoutError, TimeoutError) as err:
            if self._opened:
                raise
            # The server tells a missing right apart from the request, which is then never answered.
            raise PreconditionFailed(
                "SUBSCRIPTION_REFUSED", f"the bus gives no answer; may this user follow {self._subject}?"
            ) from err
        except nats.js.errors.BadRequestError as err:
            raise PreconditionFailed(
                "SUBSCRIPTION_DIFFERS",
                f"the durable subscription {name} exists with other settings; choose another name ({err.description})",
            ) from err

    async def _check_alive(self) -> None:
        """Opens anew after silence when the server has forgotten the consumer."""
        if self._pull is None:
            return
        try:
            await self._pull.consumer_info()
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
            await self._close()

    async def _close(self) -> None:
        if self._pull is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._pull.unsubscribe()
        self._pull = None


def _check(project: str, types: Sequence[str], durable: str | None) -> None:
    if not is_id(project):
        raise InvalidInput(f"project: {project!r} is not a project id", reason="PROJECT_INVALID")
    known = event_messages()
    for event_type in types:
        stem = event_type.removesuffix(">")
        fits = any(name.startswith(stem) for name in known) if event_type.endswith(">") else event_type in known
        if not fits:
            raise InvalidInput(
                f"there is no event type {event_type!r}; there are {', '.join(sorted(known))}",
                reason="EVENT_TYPE_UNKNOWN",
            )
    if durable is not None and not durable.replace("-", "").replace("_", "").isalnum():
        raise InvalidInput(
            f"{durable!r} cannot name a subscription; use letters, digits, '-' and '_'", reason="NAME_INVALID"
        )


def _filter(project: str, types: Sequence[str]) -> str:
    """One subject that covers all types, since order is kept within one consumer only."""
    subjects = [subject_of(project, event_type) for event_type in types]
    if len(subjects) == 1:
        return subjects[0]
    shared = list[str]()
    for tokens in zip(*(subject.split(".") for subject in subjects), strict=False):
        if len(set(tokens)) > 1 or tokens[0] == ">":
            break
        shared.append(tokens[0])
    return ".".join([*shared, ">"])


def _wanted(event_type: str, types: Sequence[str]) -> bool:
    return any(event_type == t or (t.endswith(">") and event_type.startswith(t[:-1])) for t in types)
