"""Fixtures of this service's tests."""

import asyncio
from typing import Any

import pytest

from mainspring_svckit.artifacts import ArtifactStore
from mainspring_testkit.plugin import Token
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import Surroundings

from .harness import DataIngest


@pytest.fixture
async def ingest(
    surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, token: Token, tmp_path: Any
) -> DataIngest:
    database = await postgres.new_database("mainspring_data_ingest")
    settings = {"scratch_dir": str(tmp_path / "scratch"), "max_upload_bytes": 16 << 20, "work_lease_s": 3}
    replicas = [surroundings.replica("mainspring_data_ingest.main", database, **settings) for _ in range(2)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    return DataIngest(surroundings, replicas, ArtifactStore(artifact_url), token)
