"""The console as a process, before a real registry; the other services are away, which it must survive."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pytest
import pytest_asyncio

from mainspring.registry.v1 import model_pb2, release_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_svckit.auth import LocalIssuer
from mainspring_testkit.plugin import Token
from mainspring_testkit.servers import NatsServer, PostgresServer, scratch_folder
from mainspring_testkit.service import Surroundings

ADDRESSES = ("data_ingest", "training", "evaluation", "embedder", "inference", "feedback")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(
    issuer: LocalIssuer, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    folder = tmp_path_factory.mktemp("console")
    async with scratch_folder("nats") as nats_folder:
        nats = NatsServer(nats_folder)
        await nats.start()
        surroundings = Surroundings(folder, issuer, nats.url, f"file://{folder}/artifacts")
        try:
            yield await started(surroundings, await postgres.new_database("mainspring_registry"))
        finally:
            await surroundings.stop()
            await nats.stop()


async def started(surroundings: Surroundings, database_url: str) -> str:
    registry = surroundings.replica("mainspring_registry.main", database_url)
    await registry.start()
    address = f"127.0.0.1:{registry.ports['grpc']}"
    # The registry does not know the others' RPCs, so each of their pages meets a refusal.
    settings: dict[str, Any] = {f"{name}_address": address for name in (*ADDRESSES, "registry")}
    replica = surroundings.replica("mainspring_console.main", **settings)
    await replica.start()
    policy = release_pb2.ReleasePolicy(
        name="projects/p/releasePolicies/r",
        model="projects/p/models/m",
        evaluation_suite="projects/p/evaluationSuites/s",
        primary_scorer="bleu",
    )
    stub: Any = pb_grpc.RegistryServiceStub(registry.channel)
    caller = surroundings.caller("admin")
    request = pb.UpdateReleasePolicyRequest(release_policy=policy, allow_missing=True)
    await caller.unary(stub.UpdateReleasePolicy, request, pb.UpdateReleasePolicyResponse)
    wish = model_pb2.ModelImport(model="projects/p/models/base", kind=model_pb2.MODEL_KIND_FOUNDATION, path="/nowhere")
    create = pb.CreateModelImportRequest(parent="projects/p", model_import=wish)
    await caller.unary(stub.CreateModelImport, create, pb.CreateModelImportResponse)
    return f"http://127.0.0.1:{replica.ports['http']}"


@pytest_asyncio.fixture(loop_scope="session")
async def console(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody whom it does not know yet."""
    async with httpx.AsyncClient(base_url=url) as client:
        yield client


async def enter(console: httpx.AsyncClient, token: str) -> httpx.Response:
    return await console.post("/login", data={"token": token, "project": "p"})


async def test_a1_nothing_is_shown_without_a_token_and_a_project(console: httpx.AsyncClient, token: Token) -> None:
    for path in (
        "/",
        "/data",
        "/runs",
        "/runs/x",
        "/evaluations",
        "/releases",
        "/playground",
        "/feedback",
        "/annotation",
        "/annotation/q",
        "/_nicegui",
    ):
        answer = await console.get(path)
        assert (answer.status_code, answer.headers["location"][:6]) == (303, "/login"), path
    assert (await enter(console, "a.b.c")).status_code == 401
    assert (await enter(console, token("viewer", lifetime_s=-600))).status_code == 401
    refused = await console.post("/login", data={"token": token("admin", project="*")})
    assert (refused.status_code, refused.headers["x-frame-options"]) == (400, "DENY")
    assert "say which one to look at" in refused.text
    assert (await console.get("/")).status_code == 303


async def test_a6_the_token_is_kept_from_scripts_and_other_sites(console: httpx.AsyncClient, token: Token) -> None:
    entered = await enter(console, token("viewer"))
    cookie = entered.headers.get_list("set-cookie")[0].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    page = await console.get("/")
    assert page.status_code == 200
    assert page.headers["x-frame-options"] == "DENY"
    await console.post("/logout")
    assert (await console.get("/")).status_code == 303


async def test_every_page_is_built_even_when_its_service_is_away(console: httpx.AsyncClient, token: Token) -> None:
    await enter(console, token("admin"))
    pages = await asyncio.gather(
        *(
            console.get(path, timeout=30)
            for path in (
                "/",
                "/data",
                "/runs",
                "/evaluations",
                "/releases",
                "/feedback",
                "/annotation",
                "/annotation/q",
            )
        )
    )
    for page in pages:
        assert page.status_code == 200
        assert "Mainspring" in page.text
    assert "Roll-outs" not in pages[0].text
    assert "The loop has not turned yet" in pages[0].text


async def test_a6_a_hostile_project_name_is_shown_as_text(console: httpx.AsyncClient) -> None:
    page = await console.get("/login", params={"project": '"><script>alert(1)</script>'})
    assert "<script>alert" not in page.text
