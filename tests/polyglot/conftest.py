"""Programs in Node as child processes, and what they talk to."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from nats.aio.client import Client
from tests.support.scripted import FeedbackServicer, RegistryServicer, Servicer

from mainspring.feedback.v1 import feedback_service_pb2_grpc
from mainspring.inference.v1 import inference_service_pb2_grpc
from mainspring.registry.v1 import registry_service_pb2_grpc
from mainspring_client.stack import rights
from mainspring_client.stack.component import free_port
from mainspring_client.stack.component import start as start_component
from mainspring_client.stack.nats import nats_component, user_url
from mainspring_client.stack.services import SERVICES
from mainspring_eventkit import topology
from mainspring_eventkit.bus import Bus
from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.grpc_server import GrpcServer
from mainspring_svckit.health import Health
from mainspring_testkit.servers import scratch_folder

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "node"
OURS = Path(__file__).resolve().parent / "node"

StartNode = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest_asyncio.fixture(loop_scope="session")
async def start_node() -> AsyncIterator[StartNode]:
    """Starts a program of examples/node, or of tests/polyglot/node: `start_node("answer.mjs", "argument",
    MAINSPRING_TOKEN=...)`. What still runs at the end of the test is killed.
    """
    for folder in (EXAMPLES, OURS):
        if not (folder / "node_modules").is_dir():
            pytest.fail(f"{folder} has no packages; 'make setup' installs them (npm ci)")
    started: list[asyncio.subprocess.Process] = []

    async def start(script: str, *arguments: str, **env: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "tools" / "node.py"),
            "node",
            str(OURS / script if (OURS / script).exists() else EXAMPLES / script),
            *arguments,
            env={"PATH": os.environ["PATH"], **env},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest_asyncio.fixture(loop_scope="session")
async def served(verifier: TokenVerifier) -> AsyncIterator[tuple[str, Servicer]]:
    """An address, and what answers there."""
    server = GrpcServer(verifier=verifier, health=Health(), database=None)
    servicer: Servicer = cast("Any", Servicer)()
    server.add(
        "mainspring.inference.v1.InferenceService",
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server,
        servicer,
    )
    server.add(
        "mainspring.feedback.v1.FeedbackService",
        feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server,
        cast("Any", FeedbackServicer)(),
    )
    server.add(
        "mainspring.registry.v1.RegistryService",
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server,
        cast("Any", RegistryServicer)(),
    )
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.stop(0)


@pytest_asyncio.fixture(loop_scope="session")
async def bus_and_url() -> AsyncIterator[tuple[Bus, str]]:
    """The administrator's connection to a bus with all its users, and the subscriber's URL."""
    declared = topology.load()
    users = {
        user.name: user
        for user in rights.users(SERVICES, declared, {name: f"secret-{name}" for name in rights.user_names(SERVICES)})
    }
    async with scratch_folder("nats") as folder:
        port = free_port()
        running = await start_component(nats_component(folder, port, list(users.values())))
        try:
            await running.wait_ready()
            admin = Client()
            await admin.connect(user_url(users[rights.ADMIN], port))
            await topology.apply(admin.jetstream(), declared)
            yield Bus(admin), user_url(users[rights.SUBSCRIBER], port)
            await admin.close()
        finally:
            await running.stop()


async def _run(*command: str, **env: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **env}, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(120):
        _, err = await process.communicate()
    assert process.returncode == 0, err.decode()


@pytest.fixture(scope="session")
async def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contracts, and Google's error details, as JavaScript made by `protoc-gen-es`."""
    folder = tmp_path_factory.mktemp("generated")
    await _run(sys.executable, str(ROOT / "tools" / "protos.py"), "descriptors")
    files = descriptor_pb2.FileDescriptorSet.FromString((ROOT / ".build" / "mainspring.binpb").read_bytes())
    error_details_pb2.DESCRIPTOR.CopyToProto(files.file.add())
    (folder / "contracts.binpb").write_bytes(files.SerializeToString())
    node = [sys.executable, str(ROOT / "tools" / "node.py"), "node"]
    plugin = OURS / "node_modules" / "@bufbuild" / "protoc-gen-es" / "bin" / "protoc-gen-es"
    template = {
        "version": "v2",
        "plugins": [
            {"local": [*node, str(plugin)], "out": str(folder / "js"), "opt": ["target=js", "import_extension=js"]}
        ],
    }
    buf = str(Path(sys.executable).with_name("buf"))
    await _run(
        buf, "generate", str(folder / "contracts.binpb"), "--include-imports", "--template", json.dumps(template)
    )
    # Where Node looks for what the generated code imports.
    (folder / "node_modules").symlink_to(OURS / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    return folder / "js"
