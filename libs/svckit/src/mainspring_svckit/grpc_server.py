"""The gRPC server of a service: one pipeline around every call.

A call passes, in this order: trace and log context, deadline, the caller's rights, the contract's constraints, the
tenant check, and for unary calls that change something one transaction with the idempotency of `request_id`. Errors of
our tree become their status, all others become INTERNAL with nothing but a trace id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from mainspring_svckit import idempotency, telemetry
from mainspring_svckit.auth import Principal, TokenVerifier, current_principal
from mainspring_svckit.contracts import Rpc, projects_in, rpc_of
from mainspring_svckit.database import Database
from mainspring_svckit.errors import InvalidInput, MainspringError, NotFound, PermissionDenied
from mainspring_svckit.health import Health
from mainspring_svckit.logs import get_logger
from mainspring_svckit.status import to_status
from mainspring_svckit.validation import validate

MAX_RECEIVE_BYTES = 4 << 20
MAX_SEND_BYTES = 16 << 20
log = get_logger(__name__)

# Its type stubs lack `abort_with_status` and do not say that `time_remaining` may be None.
Context = Any

_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_SEND_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class GrpcServer:
    """A server on one port, with health and, if wanted, reflection."""

    def __init__(
        self,
        *,
        verifier: TokenVerifier,
        health: Health,
        database: Database | None,
        default_deadline_s: float = 30.0,
        with_reflection: bool = True,
        max_concurrent_rpcs: int = 1000,
    ) -> None:
        """Builds the server; `add` services, then `start`."""
        pipeline = _Pipeline(verifier, database, default_deadline_s)
        self._server = grpc.aio.server(
            interceptors=[pipeline], options=_OPTIONS, maximum_concurrent_rpcs=max_concurrent_rpcs
        )
        self._health = health
        self._names = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        self._with_reflection = with_reflection
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self._server)

    def add(self, name: str, adder: Callable[[Any, grpc.aio.Server], None], servicer: object) -> None:
        """Adds a service.

        Args:
            name: Full name, `mainspring.registry.v1.RegistryService`.
            adder: The generated `add_..._to_server`.
            servicer: What implements it.
        """
        adder(servicer, self._server)
        self._names.append(name)
        self._health.add_service(name)

    async def start(self, host: str, port: int) -> int:
        """Binds and serves; returns the port."""
        if self._with_reflection:
            reflection.enable_server_reflection([*self._names, reflection.SERVICE_NAME], self._server)
        await self._health.start()
        bound = self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()
        return bound

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, lets those in flight end within `grace_s`, then cancels the rest."""
        await self._server.stop(grace_s)


def visible_project(project: str) -> str:
    """`project` if the caller may see it, for handlers that read it from a stream.

    Raises:
        NotFound: As for a project that does not exist.
    """
    if not current_principal.get().may_see(project):
        raise NotFound("Project", f"projects/{project}")
    return project


class _Pipeline(grpc.aio.ServerInterceptor):
    """Wraps the handler of every call, one wrapper per call shape."""

    def __init__(self, verifier: TokenVerifier, database: Database | None, default_deadline_s: float) -> None:
        self._verifier, self._database, self._default_deadline_s = verifier, database, default_deadline_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(("/grpc.health.", "/grpc.reflection.")):
            return handler
        # A method that our contracts do not know stays behind the same wall: it has no role, so nobody passes.
        rpc = rpc_of(handler_call_details.method) or Rpc(handler_call_details.method, "", False, Message)
        codec = {
            "request_deserializer": _lenient(handler.request_deserializer),
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming:
            inner = handler.stream_unary
            assert inner is not None, f"{rpc.name}: streams in both directions are not supported"
            return grpc.stream_unary_rpc_method_handler(self._stream_unary(rpc, inner), **codec)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._unary_stream(rpc, handler.unary_stream), **codec)
        return grpc.unary_unary_rpc_method_handler(self._unary_unary(rpc, handler.unary_unary), **codec)

    def _unary_unary(self, rpc: Rpc, inner: Callable[[Any, Context], Awaitable[Message]]) -> Any:
        async def call(request: Message, context: Context) -> Message:
            async with self._around(rpc, context, request), self._deadline(context):
                return await self._apply(rpc, request, lambda: inner(request, context))
            raise AssertionError("unreachable: leaving the block without a response has ended the call")

        return call

    def _unary_stream(self, rpc: Rpc, inner: Callable[[Any, Context], AsyncGenerator[Message]]) -> Any:
        # Writes instead of yielding: a generator that waits in `yield` while its client leaves is not told. It would
        # end when somebody collects it, which may be much later, and the engine would generate for nobody.
        async def call(request: Message, context: Context) -> None:
            async with self._around(rpc, context, request), aclosing(inner(request, context)) as responses:
                async for response in responses:
                    await context.write(response)

        return call

    def _stream_unary(self, rpc: Rpc, inner: Callable[[Any, Context], Awaitable[Message]]) -> Any:
        async def call(requests: AsyncIterable[Message], context: Context) -> Message:
            async with self._around(rpc, context, None):
                return await inner(_validated(requests), context)
            raise AssertionError("unreachable: leaving the block without a response has ended the call")

        return call

    async def _apply(self, rpc: Rpc, request: Message, handler: Callable[[], Awaitable[Message]]) -> Message:
        """Calls the handler; one that changes something runs in a transaction, once per `request_id`."""
        if not rpc.mutates or self._database is None:
            return await handler()
        database = self._database
        if not getattr(request, "request_id"):  # noqa: B009 - a field that only some messages have.
            return await database.run(handler)
        project = next(projects_in(request))
        return await database.run(
            lambda: idempotency.once(
                database,
                project=project,
                method=rpc.name,
                request=request,
                response_type=rpc.response_type,
                handler=handler,
            )
        )

    @asynccontextmanager
    async def _around(self, rpc: Rpc, context: Context, request: Message | None) -> AsyncIterator[None]:
        """Everything that is the same for all call shapes; ends the call with a status when something raises."""
        started = time.monotonic()
        code = "OK"
        metadata = telemetry.carrier_of(context.invocation_metadata() or ())
        token = telemetry.attach(telemetry.extract(metadata))
        trace_id = telemetry.current_trace_id()
        failure: Exception | None = None
        with structlog.contextvars.bound_contextvars(rpc=rpc.name, trace_id=trace_id):
            try:
                with telemetry.tracer.start_as_current_span(rpc.name, kind=telemetry.SERVER):
                    self._admit(rpc, metadata.get("authorization"), request)
                    yield
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except MainspringError as err:
                failure, code = err, err.code
            except TimeoutError as err:
                failure, code = err, "DEADLINE_EXCEEDED"
            except Exception as err:
                failure, code = err, "INTERNAL"
                log.error("rpc_failed", exc_info=True)
            finally:
                telemetry.RPC_DURATION.labels(rpc.name, code).observe(time.monotonic() - started)
                telemetry.detach(token)
        if failure is not None:
            # `abort` raises, so nothing may stand between it and gRPC.
            if code == "DEADLINE_EXCEEDED":
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the call took longer than its deadline")
            await context.abort_with_status(rpc_status.to_status(to_status(failure, trace_id=trace_id)))

    def _admit(self, rpc: Rpc, authorization: str | None, request: Message | None) -> None:
        principal = self._verifier.verify_header(authorization)
        current_principal.set(principal)
        if not rpc.required_role:
            raise PermissionDenied("(none: the RPC is not open to anybody)")
        principal.require(rpc.required_role)
        if request is not None:
            _check_readable(request)
            validate(request)
            _check_tenant(principal, request)

    @asynccontextmanager
    async def _deadline(self, context: Context) -> AsyncIterator[None]:
        remaining = context.time_remaining()
        async with asyncio.timeout(self._default_deadline_s if remaining is None else remaining):
            yield


def _check_tenant(principal: Principal, request: Message) -> None:
    projects = set(projects_in(request))
    if len(projects) > 1:
        raise InvalidInput("all resources of a request must belong to one project", reason="PROJECTS_MIXED")
    for project in projects:
        if not principal.may_see(project):
            raise NotFound("Project", f"projects/{project}")


class _Unreadable:
    """Bytes that are no message of the RPC's kind; refused as every bad request is, once the caller is admitted."""


def _lenient(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """A deserializer that does not raise: gRPC would answer UNKNOWN, which tells the caller nothing."""
    if deserializer is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            return _Unreadable()

    return read


def _check_readable(request: Any) -> None:
    if isinstance(request, _Unreadable):
        message = "the request is not a message of this RPC; generate your client from the same contracts"
        raise InvalidInput(message, reason="REQUEST_UNREADABLE")


async def _validated(requests: AsyncIterable[Message]) -> AsyncIterator[Message]:
    async for request in requests:
        _check_readable(request)
        validate(request)
        yield request
