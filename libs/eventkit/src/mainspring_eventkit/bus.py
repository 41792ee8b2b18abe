"""The connection to NATS, behind a thin wall, so that a move to another client library is one file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from mainspring_eventkit.topology import EVENTS_STREAM
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.logs import get_logger

log = get_logger(__name__)
PUBLISH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Published:
    """What the server said of a message: its place in the stream, and whether it had it already."""

    sequence: int
    duplicate: bool


@dataclass(frozen=True)
class StoredMessage:
    """A message as it lies in a stream."""

    sequence: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class StreamState:
    """A stream as it is now.

    Attributes:
        epoch: When it was made; another value means another stream under the same name.
        first: Sequence of its oldest message.
        last: Sequence of its newest message.
    """

    epoch: str
    first: int
    last: int


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Raises the cancellation that came together with the answer that was waited for.

    nats-py waits by `asyncio.wait_for`, which before Python 3.12 hands out such an answer and forgets the cancellation;
    whoever follows something would go on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


class Bus:
    """One connection. It reconnects by itself, for ever; half-open connections are noticed within fifteen seconds."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.jetstream: JetStreamContext = client.jetstream()
        self._reconnected: list[Callable[[], None]] = []
        self._closing = False

    @classmethod
    async def connect(cls, url: str, *, name: str, wait_s: float = 60.0) -> Bus:
        """Connects, waiting for a server that is not up yet.

        Args:
            url: Servers, comma-separated.
            name: Shown in the server's connection list.
            wait_s: Longest wait for the first connection.

        Raises:
            Unavailable: No server answered in time.
        """
        client = Client()
        bus = cls(client)

        async def reconnected() -> None:
            log.info("bus_reconnected")
            for callback in bus._reconnected:
                callback()

        async def disconnected() -> None:
            if not bus._closing:
                log.warning("bus_disconnected")

        async def failed(err: Exception) -> None:
            log.debug("bus_error", error=f"{type(err).__name__}: {err}")

        try:
            async with asyncio.timeout(wait_s):
                while True:
                    try:
                        await client.connect(
                            servers=url.split(","),
                            name=name,
                            error_cb=failed,
                            reconnected_cb=reconnected,
                            disconnected_cb=disconnected,
                            allow_reconnect=True,
                            max_reconnect_attempts=-1,
                            reconnect_time_wait=1,
                            ping_interval=5,
                            max_outstanding_pings=2,
                            connect_timeout=2,
                        )
                    except (OSError, nats.errors.Error):
                        await asyncio.sleep(0.2)
                    else:
                        return bus
        except TimeoutError as err:
            raise Unavailable("BUS_UNAVAILABLE", "no NATS server answers; is it running?") from err

    @property
    def client(self) -> Client:
        """The client itself, for what this wall does not cover."""
        return self._client

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Calls back after each reconnection."""
        self._reconnected.append(callback)

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str], *, message_id: str) -> Published:
        """Publishes into a stream and waits for its acknowledgement.

        Raises:
            Unavailable: The server did not acknowledge; the message may or may not be stored, so publish it again with
            the same id.
        """
        if not self._client.is_connected:
            # The client would keep the message and send it after reconnecting, before anybody has looked at the stream.
            raise Unavailable("BUS_UNAVAILABLE", "not connected to NATS")
        try:
            ack = await self.jetstream.publish(
                subject, body, timeout=PUBLISH_TIMEOUT_S, headers={**headers, "Nats-Msg-Id": message_id}
            )
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as err:
            raise Unavailable("BUS_UNAVAILABLE", f"NATS did not take the message: {type(err).__name__}") from err
        return Published(ack.seq, bool(ack.duplicate))

    async def message_id_at(self, sequence: int, stream: str = EVENTS_STREAM) -> str | None:
        """The `Nats-Msg-Id` of the message at a place of a stream, or None when there is none."""
        try:
            message = await self.jetstream.get_msg(stream, sequence)
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as err:
            raise Unavailable("BUS_UNAVAILABLE", f"NATS did not answer: {type(err).__name__}") from err
        return (message.headers or {}).get("Nats-Msg-Id")

    async def next_message(self, subject: str, after: int, stream: str = EVENTS_STREAM) -> StoredMessage | None:
        """The first message behind a place of a stream whose subject matches, or None when there is none."""
        try:
            found = await self.jetstream.get_msg(stream, after + 1, subject=subject, next=True)
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as err:
            raise Unavailable("BUS_UNAVAILABLE", f"NATS did not answer: {type(err).__name__}") from err
        return StoredMessage(found.seq or 0, found.headers or {}, found.data or b"")

    async def stream(self, name: str = EVENTS_STREAM) -> StreamState:
        """What a stream is and holds now."""
        try:
            info = await self.jetstream.stream_info(name)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as err:
            raise Unavailable("BUS_UNAVAILABLE", f"NATS did not answer: {type(err).__name__}") from err
        return StreamState(str(info.created), info.state.first_seq, info.state.last_seq)

    async def ping(self) -> None:
        """Raises `Unavailable` unless the server answers within two seconds."""
        if not self._client.is_connected:
            raise Unavailable("BUS_UNAVAILABLE", "not connected to NATS")
        try:
            # A request, not a PING: nats-py's read loop dies of a PONG that comes after its PING was given up.
            await self._client.request("$JS.API.INFO", b"", timeout=2)
        except (nats.errors.Error, TimeoutError) as err:
            raise Unavailable("BUS_UNAVAILABLE", "NATS does not answer") from err

    async def close(self) -> None:
        """Sends what is buffered and closes."""
        self._closing = True
        if self._client.is_connected:
            await self._client.flush(timeout=2)
        await self._client.close()
