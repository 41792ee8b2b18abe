"""Calls to other services: with our token, the current trace, a deadline, and errors of our tree.

Only UNAVAILABLE is tried again (AIP-194), with jitter, inside the deadline, and only when the call reads or carries a
`request_id`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from mainspring_svckit import telemetry
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.status import from_rpc_error

T = TypeVar("T", bound=Message)

_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.lb_policy_name", "round_robin"),
]


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to `host:port`; every replica behind a name gets its share of the calls."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


class Caller:
    """Makes calls on behalf of one service or person."""

    def __init__(self, token: str) -> None:
        self._authorization = f"Bearer {token}"

    async def unary(self, method: Any, request: Message, response_type: type[T], *, timeout_s: float = 10.0) -> T:
        """Calls a unary RPC of a stub.

        Raises:
            MainspringError: What the service raised, or `Unavailable` when it could not be asked.
        """
        ends = time.monotonic() + timeout_s
        may_repeat = bool(getattr(request, "request_id", "")) or "request_id" not in request.DESCRIPTOR.fields_by_name
        for attempt in range(1, 5):
            try:
                response: T = await method(
                    request, metadata=self._metadata(), timeout=max(0.01, ends - time.monotonic())
                )
            except grpc.RpcError as err:
                failure = from_rpc_error(err)
                wait = random.uniform(0.5, 1.0) * 0.1 * 2**attempt  # noqa: S311 - jitter, not a secret.
                hopeless = not isinstance(failure, Unavailable) or failure.reason == "UPSTREAM_DEADLINE_EXCEEDED"
                if hopeless or not may_repeat or attempt == 4 or time.monotonic() + wait > ends:
                    raise failure from err
                await asyncio.sleep(wait)
            else:
                assert isinstance(response, response_type)
                return response
        raise AssertionError("unreachable")

    async def stream(
        self, method: Any, request: Message, response_type: type[T], *, timeout_s: float | None = None
    ) -> AsyncGenerator[T]:
        """Calls a server-streaming RPC of a stub; not tried again.

        Raises:
            MainspringError: As `unary`.
        """
        call = method(request, metadata=self._metadata(), timeout=timeout_s)
        try:
            async for response in call:
                assert isinstance(response, response_type)
                yield response
        except grpc.RpcError as err:
            raise from_rpc_error(err) from err
        finally:
            call.cancel()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", self._authorization), *telemetry.inject().items())


async def check_serving(channel: grpc.aio.Channel) -> None:
    """Raises `Unavailable` unless the service behind `channel` says SERVING."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    try:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
    except grpc.RpcError as err:
        raise Unavailable("SERVICE_UNAVAILABLE", "the service cannot be reached") from err
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unavailable("SERVICE_NOT_SERVING", "the service is up but not ready")
