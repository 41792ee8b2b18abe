"""Where the services are, who we are there, and how calls are made."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from mainspring_client.stack.folder import DataFolder
from mainspring_client.stack.state import StackState
from mainspring_svckit.errors import InvalidInput, PreconditionFailed, Unavailable
from mainspring_svckit.grpc_client import Caller, open_channel
from mainspring_svckit.status import from_rpc_error

T = TypeVar("T")
R = TypeVar("R", bound=Message)

SERVICES = ("data-ingest", "trainer", "evaluator", "registry", "embedder", "inference", "feedback")
WATCH_PATIENCE_S = 90.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Endpoints:
    """Where an installation is.

    Attributes:
        services: `host:port` by service name; `*` stands for all that are not named.
        token: Bearer token for calls.
        nats_url: NATS servers for events, with user and password; empty when events are not wanted.
    """

    services: Mapping[str, str]
    token: str = field(repr=False)
    nats_url: str = field(default="", repr=False)

    @classmethod
    def local(cls, folder: DataFolder) -> Endpoints:
        """Those of the local stack in a data folder, with the rights of its first person.

        Raises:
            PreconditionFailed: STACK_NOT_RUNNING.
        """
        state = StackState.load(folder.state_file)
        if not state.supervised:
            raise PreconditionFailed(
                "STACK_NOT_RUNNING", f"no stack runs in {folder.root}; start it with 'mainspring up'"
            )
        services: dict[str, str] = state.addresses["services"]
        return cls(services, _read(folder.admin_token), _read(folder.subscriber_url))

    @classmethod
    def find(
        cls,
        addresses: str | Mapping[str, str] | None = None,
        *,
        token: str | None = None,
        nats_url: str | None = None,
        data: Path | None = None,
    ) -> Endpoints:
        """What the arguments say, else `MAINSPRING_ADDRESS`, `MAINSPRING_TOKEN` and `MAINSPRING_NATS_URL`, else the
        local stack.

        Args:
            addresses: One `host:port` behind which all services are, or one for each, as a mapping or as
                `registry=host:port,inference=host:port`.
            token: Bearer token.
            nats_url: NATS servers for `subscribe`.
            data: Data folder of a local stack; default `MAINSPRING_DATA` or `~/.mainspring`.

        Raises:
            PreconditionFailed: STACK_NOT_RUNNING, or TOKEN_MISSING for addresses without a token.
            InvalidInput: The addresses cannot be read.
        """
        addresses = addresses or (None if data is not None else os.environ.get("MAINSPRING_ADDRESS"))
        token = token or os.environ.get("MAINSPRING_TOKEN")
        nats_url = nats_url or os.environ.get("MAINSPRING_NATS_URL")
        if addresses is None:
            local = cls.local(DataFolder.at(data))
            return cls(local.services, token or local.token, nats_url or local.nats_url)
        if not token:
            raise PreconditionFailed("TOKEN_MISSING", "set MAINSPRING_TOKEN, or pass a token; an admin can make one")
        return cls(_parse(addresses) if isinstance(addresses, str) else addresses, token, nats_url or "")


class Connection:
    """Channels to the services, and calls with our token. Generated stubs work with `channel` and `metadata`."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.caller = Caller(endpoints.token)
        self._channels: dict[str, grpc.aio.Channel] = {}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata for calls that are made with a stub directly."""
        return (("authorization", f"Bearer {self.endpoints.token}"),)

    def channel(self, service: str) -> grpc.aio.Channel:
        """The channel to a service; opened at its first use.

        Raises:
            PreconditionFailed: SERVICE_ADDRESS_UNKNOWN.
        """
        if service not in self._channels:
            address = self.endpoints.services.get(service) or self.endpoints.services.get("*")
            if not address:
                raise PreconditionFailed(
                    "SERVICE_ADDRESS_UNKNOWN", f"no address of {service} is known; is it part of this installation?"
                )
            self._channels[service] = open_channel(address)
        return self._channels[service]

    async def close(self) -> None:
        """Closes all channels."""
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))


class Area:
    """Base of the clients of single services."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def _unary(self, method: Any, request: Message, kind: type[R], timeout_s: float = _TIMEOUT_S) -> R:
        return await self._connection.caller.unary(method, request, kind, timeout_s=timeout_s)

    async def _pages(
        self, method: Any, request: Any, kind: type[R], items: Callable[[R], Iterable[T]]
    ) -> AsyncIterator[T]:
        """Everything that a List RPC has, page by page, as it is asked for."""
        while True:
            page = await self._unary(method, request, kind)
            for item in items(page):
                yield item
            token = getattr(page, "next_page_token", "")
            if not token:
                return
            request.page_token = token

    async def _watch(self, method: Any, request: Message, kind: type[R]) -> AsyncIterator[R]:
        """A Watch RPC to its end. A watch that breaks is begun anew, since its first message tells how things stand.

        Raises:
            Unavailable: The service has been away for longer than a restart takes.
        """
        away_since: float | None = None
        while True:
            try:
                async for response in self._connection.caller.stream(method, request, kind):
                    away_since = None
                    yield response
            except Unavailable:
                now = time.monotonic()
                away_since = away_since if away_since is not None else now
                if now - away_since > WATCH_PATIENCE_S:
                    raise
                await asyncio.sleep(0.5)
            else:
                return

    async def _client_stream(
        self, method: Any, requests: Callable[[], AsyncIterable[Message]], kind: type[R], timeout_s: float
    ) -> R:
        """A client-streaming RPC; begun anew with the same messages while the service is away, three times at most."""
        for attempt in range(4):
            try:
                response = await method(requests(), metadata=self._connection.metadata, timeout=timeout_s)
            except grpc.RpcError as err:
                failure = from_rpc_error(err)
                if not isinstance(failure, Unavailable) or attempt == 3:
                    raise failure from err
                await asyncio.sleep(0.5 * 2**attempt)
            else:
                assert isinstance(response, kind)
                return response
        raise AssertionError("unreachable")


def _parse(text: str) -> dict[str, str]:
    """Reads `host:port` or `name=host:port,...`."""
    if "=" not in text:
        return {"*": text.strip()}
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if wrong := [name for name, _, address in pairs if not address or name.strip() not in (*SERVICES, "*")]:
        raise InvalidInput(
            f"{', '.join(wrong)}: write name=host:port, with names of {', '.join(SERVICES)}",
            reason="ADDRESSES_INVALID",
        )
    return {name.strip(): address.strip() for name, _, address in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
