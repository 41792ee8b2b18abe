"""Requests that no client of ours sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

NO_REQUESTS = {
    "empty": b"",
    "garbage": b"\xff" * 10,
    "two gigabytes": b"\x0a\xff\xff\xff\xff\x7f",
    "not UTF-8": b"\x0a\x03\xff\xfe\xfd",
    "nested groups": b"\x0b" * 10_000,
    "a path": b"\x0a\x06a/../b",
}


async def assert_refused(channel: grpc.aio.Channel, service: str, methods: Sequence[str], token: str) -> None:
    """Asserts that a service calls none of them a request; each method's first field must be a required name."""
    for method in methods:
        call: Any = channel.unary_unary(f"/{service}/{method}")
        for what, data in NO_REQUESTS.items():
            try:
                await call(data, metadata=(("authorization", f"Bearer {token}"),), timeout=10)
            except grpc.aio.AioRpcError as err:
                assert err.code() is grpc.StatusCode.INVALID_ARGUMENT, (method, what, err.details())
            else:
                raise AssertionError(f"{method} took {what} for a request")
