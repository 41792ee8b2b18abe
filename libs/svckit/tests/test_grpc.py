"""The pipeline around every call, on a real server with a service of our contracts."""

import asyncio
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from sqlalchemy import text

from mainspring.data.v1 import data_service_pb2 as pb
from mainspring.data.v1 import data_service_pb2_grpc as pb_grpc
from mainspring_svckit.auth import TokenVerifier, current_principal
from mainspring_svckit.contracts import projects_in, rpc_of
from mainspring_svckit.database import Database
from mainspring_svckit.errors import InvalidInput, MainspringError, NotFound, Unavailable
from mainspring_svckit.grpc_client import Caller, check_serving, open_channel
from mainspring_svckit.grpc_server import GrpcServer, visible_project
from mainspring_svckit.health import Health
from mainspring_svckit.ids import new_id
from mainspring_svckit.status import from_rpc_error
from mainspring_testkit.plugin import DatabaseFor, Token
from mainspring_testkit.waiting import eventually

CONTRACTS = Path(pb.__file__).resolve().parents[3]
SERVICES = [
    service.full_name
    for path in sorted(CONTRACTS.glob("mainspring/*/v1/*_service_pb2.py"))
    for service in import_module(
        ".".join(path.relative_to(CONTRACTS).with_suffix("").parts)
    ).DESCRIPTOR.services_by_name.values()
]
# What only reads, or says the same for the same request; FetchSource stores files by their digest, as an upload does.
READS = (
    "Get",
    "List",
    "Trace",
    "Watch",
    "Search",
    "Embed",
    "Generate",
    "Stream",
    "Upload",
    "Compare",
    "Estimate",
    "Preview",
    "Score",
    "Export",
    "Measure",
    "Download",
    "CheckRelease",
    "Verify",
    "FetchSource",
)


class Servicer(pb_grpc.DataServiceServicer):
    """Does what a test tells it through the name it is asked for."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> pb.GetDatasetResponse:
        match request.name.rsplit("/", 1)[-1]:
            case "missing":
                raise NotFound("Dataset", request.name)
            case "bug":
                raise RuntimeError("secret path /etc/shadow")
            case "slow":
                await asyncio.Event().wait()
            case "away":
                raise Unavailable("DEPENDENCY", "away", retry_after_s=3)
            case _:
                pass
        response = pb.GetDatasetResponse()
        response.dataset.name = f"{request.name} for {current_principal.get().subject}"
        return response

    async def CancelIngestion(self, request: pb.CancelIngestionRequest, context: Any) -> pb.CancelIngestionResponse:
        self.entered.set()
        if request.name.endswith("/wait"):
            await self.gate.wait()
        connection = self.database.connection()
        await connection.execute(text("INSERT INTO effect (what) VALUES (:what)"), {"what": request.name})
        if request.name.endswith("/fails"):
            raise InvalidInput("after the write")
        response = pb.CancelIngestionResponse()
        response.ingestion.name = f"{request.name} {new_id()}"
        return response

    async def WatchIngestion(
        self, request: pb.WatchIngestionRequest, context: Any
    ) -> AsyncIterator[pb.WatchIngestionResponse]:
        try:
            for number in range(3):
                response = pb.WatchIngestionResponse()
                response.ingestion.name = str(number)
                yield response
            if request.name.endswith("/breaks"):
                raise Unavailable("DEPENDENCY", "away")
            if request.name.endswith("/endless"):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[pb.UploadArtifactRequest], context: Any
    ) -> pb.UploadArtifactResponse:
        size, first = 0, True
        async for request in request_iterator:
            if first:
                visible_project(request.parent.removeprefix("projects/"))
                first = False
            size += len(request.chunk)
        response = pb.UploadArtifactResponse()
        response.artifact.size_bytes = size
        return response


class Fixture:
    def __init__(self, servicer: Servicer, channel: grpc.aio.Channel, health: Health) -> None:
        self.servicer, self.channel, self.health = servicer, channel, health
        self.stub: Any = pb_grpc.DataServiceStub(channel)

    async def effects(self) -> int:
        async with self.servicer.database.transaction() as connection:
            return int(await connection.scalar(text("SELECT count(*) FROM effect")) or 0)


@pytest.fixture
async def service(database_for: DatabaseFor, verifier: TokenVerifier):  # type: ignore[no-untyped-def]
    database = await database_for("mainspring_testkit.platform")
    health = Health({"database": database.ping})
    server = GrpcServer(verifier=verifier, health=health, database=database, default_deadline_s=1)
    servicer = Servicer(database)  # pyright: ignore[reportAbstractUsage] - the RPCs that no test calls.
    server.add("mainspring.data.v1.DataService", pb_grpc.add_DataServiceServicer_to_server, servicer)
    port = await server.start("127.0.0.1", 0)
    channel = open_channel(f"127.0.0.1:{port}")
    yield Fixture(servicer, channel, health)
    await channel.close()
    await server.stop(0)


async def failure(call: Any) -> MainspringError:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def meta(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def dataset(name: str = "d", project: str = "p") -> pb.GetDatasetRequest:
    return pb.GetDatasetRequest(name=f"projects/{project}/datasets/{name}")


async def test_a_call_with_a_good_token_passes(service: Fixture, token: Token) -> None:
    response = await service.stub.GetDataset(dataset(), metadata=meta(token("viewer")))
    assert response.dataset.name == "projects/p/datasets/d for tester"


async def test_a1_no_token_expired_token_and_low_role_are_refused(service: Fixture, token: Token) -> None:
    assert (await failure(service.stub.GetDataset(dataset()))).code == "UNAUTHENTICATED"
    expired = meta(token("viewer", lifetime_s=-600))
    assert (await failure(service.stub.GetDataset(dataset(), metadata=expired))).code == "UNAUTHENTICATED"
    cancel = pb.CancelIngestionRequest(name="projects/p/ingestions/i")
    refused = await failure(service.stub.CancelIngestion(cancel, metadata=meta(token("viewer"))))
    assert refused.code == "PERMISSION_DENIED"
    assert refused.metadata["requiredRole"] == "contributor"


async def test_a3_another_project_reads_as_missing(service: Fixture, token: Token) -> None:
    other = await failure(service.stub.GetDataset(dataset(project="q"), metadata=meta(token("admin"))))
    assert (other.code, other.reason) == ("NOT_FOUND", "PROJECT_NOT_FOUND")
    mixed = pb.CreateIngestionRequest(parent="projects/p", ingestion_recipe="projects/q/ingestionRecipes/r")
    mixed.sources.add(format=1).artifact.sha256 = "0" * 64
    refused = await failure(service.stub.CreateIngestion(mixed, metadata=meta(token("admin"))))
    assert refused.reason == "PROJECTS_MIXED"


async def test_b2_all_violations_come_back_at_once(service: Fixture, token: Token) -> None:
    bad = pb.CreateIngestionRequest(parent="nope", ingestion_recipe="nope", request_id="nope")
    refused = await failure(service.stub.CreateIngestion(bad, metadata=meta(token("admin"))))
    assert isinstance(refused, InvalidInput)
    assert {v.field for v in refused.violations} == {"parent", "ingestion_recipe", "request_id", "sources"}


async def test_errors_reach_the_caller_with_their_details(service: Fixture, token: Token) -> None:
    viewer = meta(token("viewer"))
    missing = await failure(service.stub.GetDataset(dataset("missing"), metadata=viewer))
    assert (missing.reason, missing.metadata) == ("DATASET_NOT_FOUND", {"name": "projects/p/datasets/missing"})
    away = await failure(service.stub.GetDataset(dataset("away"), metadata=viewer))
    assert isinstance(away, Unavailable)
    assert (away.reason, away.retry_after_s) == ("DEPENDENCY", 3.0)


async def test_i11_a_bug_says_nothing_but_a_trace_id(service: Fixture, token: Token) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.GetDataset(dataset("bug"), metadata=meta(token("viewer")))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "shadow" not in str(caught.value) + repr(caught.value.trailing_metadata())


async def test_a_call_without_deadline_gets_the_services_own(service: Fixture, token: Token) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.GetDataset(dataset("slow"), metadata=meta(token("viewer")))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_i2_the_same_request_id_has_one_effect_and_one_answer(service: Fixture, token: Token) -> None:
    caller = meta(token("contributor"))
    request = pb.CancelIngestionRequest(name="projects/p/ingestions/i", request_id=new_id())
    first = await service.stub.CancelIngestion(request, metadata=caller)
    again = await service.stub.CancelIngestion(request, metadata=caller)
    assert first == again
    assert await service.effects() == 1
    request.name += "2"
    reused = await failure(service.stub.CancelIngestion(request, metadata=caller))
    assert (reused.code, reused.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
    request.request_id = ""
    await service.stub.CancelIngestion(request, metadata=caller)
    await service.stub.CancelIngestion(request, metadata=caller)
    assert await service.effects() == 3


async def test_i2_a_repeat_while_the_first_runs_is_told_so(service: Fixture, token: Token) -> None:
    caller = meta(token("contributor"))
    request = pb.CancelIngestionRequest(name="projects/p/ingestions/wait", request_id=new_id())
    first = asyncio.ensure_future(service.stub.CancelIngestion(request, metadata=caller))
    await service.servicer.entered.wait()
    busy = await failure(service.stub.CancelIngestion(request, metadata=caller))
    assert (busy.code, busy.reason) == ("ABORTED", "REQUEST_IN_PROGRESS")
    service.servicer.gate.set()
    done = await first
    assert await service.stub.CancelIngestion(request, metadata=caller) == done
    assert await service.effects() == 1


async def test_a_failed_call_leaves_nothing_and_may_be_repeated(service: Fixture, token: Token) -> None:
    caller = meta(token("contributor"))
    request = pb.CancelIngestionRequest(name="projects/p/ingestions/fails", request_id=new_id())
    for _ in range(2):
        assert (await failure(service.stub.CancelIngestion(request, metadata=caller))).code == "INVALID_ARGUMENT"
    assert await service.effects() == 0


async def test_the_same_id_of_two_projects_is_two_requests(service: Fixture, token: Token) -> None:
    shared = new_id()
    for project in ("p", "q"):
        request = pb.CancelIngestionRequest(name=f"projects/{project}/ingestions/i", request_id=shared)
        await service.stub.CancelIngestion(request, metadata=meta(token("contributor", project=project)))
    assert await service.effects() == 2


async def test_a_stream_that_fails_ends_with_a_status_after_its_messages(service: Fixture, token: Token) -> None:
    caller = Caller(token("viewer"))
    request = pb.WatchIngestionRequest(name="projects/p/ingestions/breaks")
    seen: list[str] = []
    with pytest.raises(Unavailable, match="away"):
        async for response in caller.stream(service.stub.WatchIngestion, request, pb.WatchIngestionResponse):
            seen.append(response.ingestion.name)
    assert seen == ["0", "1", "2"]


async def test_f18_a_client_that_leaves_ends_the_stream(service: Fixture, token: Token) -> None:
    request = pb.WatchIngestionRequest(name="projects/p/ingestions/endless")
    call = service.stub.WatchIngestion(request, metadata=meta(token("viewer")))
    assert (await call.read()).ingestion.name == "0"
    call.cancel()
    await asyncio.wait_for(service.servicer.cancelled.wait(), 1)


async def test_an_upload_is_admitted_by_its_first_message(service: Fixture, token: Token) -> None:
    async def messages(project: str) -> AsyncIterator[pb.UploadArtifactRequest]:
        for _ in range(3):
            yield pb.UploadArtifactRequest(parent=f"projects/{project}", chunk=b"abc")

    caller = meta(token("contributor"))
    assert (await service.stub.UploadArtifact(messages("p"), metadata=caller)).artifact.size_bytes == 9
    assert (await failure(service.stub.UploadArtifact(messages("q"), metadata=caller))).code == "NOT_FOUND"


async def test_b2_a_message_above_the_limit_is_refused(service: Fixture, token: Token) -> None:
    request = pb.GetDatasetRequest(name="projects/p/datasets/" + "d" * (5 << 20))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.GetDataset(request, metadata=meta(token("viewer")))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x05a", b"\x0a\x01\xff", b"\x0b" * 1000])
async def test_b2_bytes_that_are_no_message_are_a_bad_request(service: Fixture, token: Token, data: bytes) -> None:
    call = service.channel.unary_unary("/mainspring.data.v1.DataService/GetDataset")
    refused = await failure(call(data, metadata=meta(token("viewer"))))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "REQUEST_UNREADABLE")
    assert (await failure(call(data))).code == "UNAUTHENTICATED"


async def test_i9_health_tells_what_the_probes_found(service: Fixture) -> None:
    with pytest.raises(Unavailable):
        await check_serving(service.channel)
    await service.health.check()
    await check_serving(service.channel)

    async def fails() -> None:
        raise Unavailable("X", "away")

    service.health.add_probe("x", fails)
    await service.health.check()
    assert service.health.failing == {"x": "X"}
    with pytest.raises(Unavailable):
        await check_serving(service.channel)
    await service.health.stop()
    assert not service.health.ready


async def test_a_caller_tries_again_only_what_may_be_repeated(service: Fixture, token: Token) -> None:
    caller = Caller(token("viewer"))
    with pytest.raises(Unavailable) as caught:
        await caller.unary(service.stub.GetDataset, dataset("slow"), pb.GetDatasetResponse, timeout_s=0.2)
    assert caught.value.reason == "UPSTREAM_DEADLINE_EXCEEDED"

    async def answers() -> bool:
        response = await caller.unary(service.stub.GetDataset, dataset(), pb.GetDatasetResponse)
        return bool(response.dataset.name)

    await eventually(answers)


def test_a1_every_rpc_declares_a_role_and_a_tenant() -> None:
    """A new RPC without them would be closed to everybody; this says so before anybody calls it."""
    assert len(SERVICES) >= 16
    for name in SERVICES:
        for method in Default().FindServiceByName(name).methods:
            rpc = rpc_of(f"/{name}/{method.name}")
            assert rpc is not None
            assert rpc.required_role, rpc.name
            fields = {field.name: field for field in method.input_type.fields}
            if method.name.startswith("Update"):
                resources = [field.message_type for field in fields.values() if field.message_type is not None]
                named = any("name" in resource.fields_by_name for resource in resources)
                assert named or "name" in fields, rpc.name
            else:
                assert fields.keys() & {"name", "parent", "dataset", "base", "first"}, rpc.name
            reads = method.name.startswith(READS)
            assert rpc.mutates is not reads, f"{rpc.name} must carry request_id exactly if it changes something"


def test_resource_names_are_found_wherever_they_stand() -> None:
    request = pb.UpdateIngestionRecipeRequest()
    request.ingestion_recipe.name = "projects/a/ingestionRecipes/r"
    request.ingestion_recipe.dataset = "projects/b/datasets/d"
    request.ingestion_recipe.system_prompt = "projects/c/models/m is only prose"
    assert set(projects_in(request)) == {"a", "b"}
