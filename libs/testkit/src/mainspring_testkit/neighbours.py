"""Other services as the one under test sees them: real gRPC with the real checks, behind it an object of the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple

import grpc

from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.grpc_client import Caller, open_channel
from mainspring_svckit.grpc_server import GrpcServer
from mainspring_svckit.health import Health


class Neighbours(NamedTuple):
    """Where they are, and somebody with a service's rights who calls them."""

    address: str
    channel: grpc.aio.Channel
    caller: Caller


class NeighbourServer:
    """Serves the methods that an object has as if they were those of whole services."""

    def __init__(self, verifier: TokenVerifier, token: str) -> None:
        """Takes who checks callers, and a caller's token."""
        self._server = GrpcServer(verifier=verifier, health=Health(), database=None)
        self._token = token
        self._channel: grpc.aio.Channel | None = None

    async def start(self, methods: object, *services: str) -> Neighbours:
        """Starts to serve.

        Args:
            methods: Has a method for each RPC that may be called, by its name.
            services: Names after `mainspring.`, for example `registry.v1.RegistryService`.
        """
        for service in services:
            package, _, name = service.rpartition(".")
            self._server.add(f"mainspring.{service}", _adder(package, name), _Partly(methods))
        address = f"127.0.0.1:{await self._server.start('127.0.0.1', 0)}"
        self._channel = open_channel(address)
        return Neighbours(address, self._channel, Caller(self._token))

    async def stop(self) -> None:
        """Ends it at once."""
        if self._channel is not None:
            await self._channel.close()
        await self._server.stop(0)


def _adder(package: str, service: str) -> Any:
    """The generated function that adds a service, whatever its file is called."""
    folder = import_module(f"mainspring.{package}")
    for module in iter_modules(folder.__path__):
        if module.name.endswith("_pb2_grpc"):
            adder = getattr(
                import_module(f"mainspring.{package}.{module.name}"), f"add_{service}Servicer_to_server", None
            )
            if adder is not None:
                return adder
    raise LookupError(f"no contract of mainspring.{package} has a {service}")


class _Partly:
    """A servicer that has some of the methods; the generated adders ask for all of a service's."""

    def __init__(self, methods: object) -> None:
        self._methods = methods

    def __getattr__(self, method: str) -> Any:
        async def missing(request: Any, context: Any) -> Any:
            raise AssertionError(f"nobody is expected to call {method}")

        return getattr(self._methods, method, missing)


ServeNeighbours = Callable[..., Awaitable[Neighbours]]
"""`await neighbours(methods, "registry.v1.RegistryService")`; see `NeighbourServer.start`."""
