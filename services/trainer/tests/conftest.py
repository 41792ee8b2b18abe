"""Replicas of the trainer for every test that asks for them."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from mainspring.data.v1 import data_service_pb2_grpc
from mainspring.registry.v1 import registry_service_pb2_grpc
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import Surroundings

from .replicas import Others, Trainer
from .world import World, made_world


@pytest.fixture
async def trainer(
    surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, tmp_path: Path
) -> AsyncIterator[Trainer]:
    others = Others()  # pyright: ignore[reportAbstractUsage] - the RPCs that the trainer never calls.
    server = grpc.aio.server()
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(others, server)
    data_service_pb2_grpc.add_DataServiceServicer_to_server(others, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    database = await postgres.new_database("mainspring_trainer")
    made = Trainer(surroundings, database, others, f"127.0.0.1:{port}", ArtifactStore(artifact_url), tmp_path)
    await made.base()
    yield made
    await surroundings.stop()
    await server.stop(0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return made_world(tmp_path)
