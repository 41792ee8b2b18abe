"""The registry as its users meet it: gRPC, events in and out, two replicas, real NATS and Postgres."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import asyncpg

from mainspring.common.v1 import statistics_pb2
from mainspring.events.v1 import evaluation_events_pb2, training_events_pb2
from mainspring.registry.v1 import model_pb2, release_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings

MODEL = "projects/p/models/m"
BASE = "projects/p/models/base"
SUITE = "projects/p/evaluationSuites/s"
IMPORTER = """
import json, pathlib, sys
request = json.load(sys.stdin)
if sys.argv[-1].endswith(".quantizer"):
    (pathlib.Path(request["out"]) / "small.gguf").write_bytes(pathlib.Path(request["before"]["gguf"]).read_bytes()[:7])
    measured = {"file_bytes": 7, "resident_bytes": 9, "prompt_tokens_per_second": 2.0, "tokens_per_second": 1.0}
    both = {"before": measured, "after": measured, "lost": {}}
    print(json.dumps({"files": {"gguf": "small.gguf"}, "types": {"Q4_K": 3}, **both}))
    sys.exit(0)
if request["package"] == "bad":
    print(json.dumps({"reason": "PICKLE_REFUSED", "message": "weights.bin is a pickle"}))
    sys.exit(2)
out = pathlib.Path(request["out"])
(out / "m.gguf").write_bytes(b"weights of " + request["package"].encode())
(out / "config.json").write_text("{}")
files = {"gguf": "m.gguf", "hf/config.json": "config.json"}
serving = {"context_tokens": 512, "chat_template": "t", "bos_token": "", "eos_token": "e", "dimensions": 0}
print(json.dumps({"files": files, "serving": serving, "licence": "MIT", "origin": request["package"]}))
"""


class Registry:
    """Two replicas and somebody who calls them."""

    def __init__(
        self, surroundings: Surroundings, replicas: list[ServiceProcess], artifacts: ArtifactStore, database_url: str
    ) -> None:
        self.surroundings, self.replicas, self.artifacts = surroundings, replicas, artifacts
        self.database_url = database_url
        self.caller = surroundings.caller("admin")
        self.turn = 0

    async def call(self, method: str, **fields: Any) -> Any:
        self.turn += 1
        replica = self.replicas[self.turn % len(self.replicas)]
        request = getattr(pb, f"{method}Request")(**fields)
        stub: Any = pb_grpc.RegistryServiceStub(replica.channel)
        return await self.caller.unary(getattr(stub, method), request, getattr(pb, f"{method}Response"))

    async def import_base(self, package: str = "base") -> model_pb2.ModelImport:
        wish = model_pb2.ModelImport(model=BASE, kind=model_pb2.MODEL_KIND_FOUNDATION, package=package)
        started = await self.call("CreateModelImport", parent="projects/p", model_import=wish, request_id=new_id())
        stub: Any = pb_grpc.RegistryServiceStub(self.replicas[0].channel)
        request = pb.WatchModelImportRequest(name=started.model_import.name)
        seen = [r async for r in self.caller.stream(stub.WatchModelImport, request, pb.WatchModelImportResponse)]
        return seen[-1].model_import

    async def run_succeeded(self, number: int) -> training_events_pb2.TrainingRunSucceeded:
        artifact = await self.artifacts.put_bytes("p", f"adapter {number}".encode())
        event = training_events_pb2.TrainingRunSucceeded(
            training_run=f"projects/p/trainingRuns/r{number}",
            model=MODEL,
            base_model_version=f"{BASE}/versions/1",
            dataset_version="projects/p/datasets/d/versions/1",
            tuning_recipe="projects/p/tuningRecipes/t",
        )
        event.artifacts["adapter.gguf"].CopyFrom(artifact_to_proto(artifact))
        return event

    async def apply_policy(self) -> None:
        policy = release_pb2.ReleasePolicy(
            name="projects/p/releasePolicies/r", model=MODEL, evaluation_suite=SUITE, primary_scorer="rouge_l"
        )
        await self.call("UpdateReleasePolicy", release_policy=policy, allow_missing=True)

    async def evaluated(
        self, version: str, low: float, baseline: str = f"{BASE}/versions/1"
    ) -> evaluation_events_pb2.EvaluationRunCompleted:
        found = (await self.call("GetModelVersion", name=version)).model_version
        estimate = statistics_pb2.Estimate(value=0.5, low=0.4, high=0.6, confidence_level=0.95)
        difference = statistics_pb2.Estimate(value=low + 0.1, low=low, high=low + 0.2, confidence_level=0.95)
        return evaluation_events_pb2.EvaluationRunCompleted(
            evaluation_run=f"projects/p/evaluationRuns/{new_id()}",
            evaluation_suite=SUITE,
            candidate=version,
            candidate_manifest_sha256=found.manifest.sha256,
            baseline=baseline,
            items=100,
            results=[
                statistics_pb2.ScorerResult(
                    scorer="rouge_l", candidate=estimate, baseline=estimate, difference=difference
                )
            ],
            fidelity=statistics_pb2.Fidelity(mean_kl_nats=0.01, top1_agreement=0.97, positions=64),
        )

    async def execute(self, statement: str) -> None:
        """Runs SQL where the service keeps its state."""
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def start_registry(
    surroundings: Surroundings,
    postgres: PostgresServer,
    artifact_url: str,
    folder: Path,
    *,
    count: int = 2,
    **settings: Any,
) -> Registry:
    """Replicas over one database; the importer is a script that makes files of any name."""
    script = folder / "python"
    script.write_text(f"#!{sys.executable}\n{IMPORTER}")
    script.chmod(0o755)
    database = await postgres.new_database("mainspring_registry")
    replicas = [
        surroundings.replica("mainspring_registry.main", database, modelfiles_python=str(script), **settings)
        for _ in range(count)
    ]
    await asyncio.gather(*(replica.start() for replica in replicas))
    return Registry(surroundings, replicas, ArtifactStore(artifact_url), database)
