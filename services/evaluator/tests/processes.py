"""Two replicas of the evaluator as processes, and what is around them."""

import asyncio
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mainspring.evaluation.v1 import evaluation_service_pb2 as pb
from mainspring.evaluation.v1 import evaluation_service_pb2_grpc as pb_grpc
from mainspring.evaluation.v1 import run_pb2, suite_pb2
from mainspring.events.v1.registry_events_pb2 import ModelVersionRegistered
from mainspring.registry.v1 import model_pb2
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.waiting import eventually

from .plane import BASE, DATA, MODEL, QUESTIONS, SUITE, Plane, reference, version


class Evaluator:
    """Two replicas, what they ask, and somebody who calls them."""

    def __init__(
        self, surroundings: Surroundings, database_url: str, replicas: list[ServiceProcess], plane: Plane, store: Any
    ) -> None:
        self.database_url, self.replicas, self.plane, self.store = database_url, replicas, plane, store
        self.caller, self.stranger = surroundings.caller("admin"), surroundings.caller("admin", project="q")
        self.turn = 0

    async def call(self, method: str, *, caller: Any = None, **fields: Any) -> Any:
        self.turn += 1
        replica = self.replicas[self.turn % len(self.replicas)]
        request = getattr(pb, f"{method}Request")(**fields)
        stub: Any = pb_grpc.EvaluationServiceStub(replica.channel)
        return await (caller or self.caller).unary(getattr(stub, method), request, getattr(pb, f"{method}Response"))

    async def put_suite(self, **changes: Any) -> suite_pb2.EvaluationSuite:
        fields: dict[str, Any] = {"name": SUITE, "model": MODEL, "scorers": ["rouge_l", "bleu", "chrf"], **changes}
        suite = suite_pb2.EvaluationSuite(bootstrap_resamples=200, **fields)
        answer = await self.call("UpdateEvaluationSuite", evaluation_suite=suite, allow_missing=True)
        return answer.evaluation_suite

    async def create(self, candidate: str, **fields: Any) -> run_pb2.EvaluationRun:
        answer = await self.call(
            "CreateEvaluationRun", parent="projects/p", evaluation_suite=SUITE, candidate=candidate, **fields
        )
        return answer.evaluation_run

    async def watch(self, name: str, replica: int = 0) -> list[run_pb2.EvaluationRun]:
        stub: Any = pb_grpc.EvaluationServiceStub(self.replicas[replica].channel)
        request = pb.WatchEvaluationRunRequest(name=name)
        stream = self.caller.stream(stub.WatchEvaluationRun, request, pb.WatchEvaluationRunResponse, timeout_s=60)
        return [answer.evaluation_run async for answer in stream]

    async def register(self, number: int, *, probe: bytes = b"") -> ModelVersionRegistered:
        """A version in the catalogue, and the event that tells of it."""
        made = model_pb2.ModelVersion(name=version(number), base_model_version=BASE)
        made.manifest.CopyFrom(artifact_to_proto(await self.store.put_bytes("p", f"manifest {number}".encode())))
        made.lineage.dataset_version = DATA
        if probe:
            made.artifacts["fidelity_probe.json"].CopyFrom(artifact_to_proto(await self.store.put_bytes("p", probe)))
        self.plane.versions[made.name] = made
        return ModelVersionRegistered(
            model_version=made.name, model=MODEL, kind="ADAPTER", base_model_version=BASE, manifest=made.manifest
        )

    async def put_dataset(self, shards: int = 2, *, damaged: bool = False) -> None:
        """A dataset version whose test split has every question twice, over several shards."""
        entries: list[dict[str, Any]] = []
        for shard in range(shards):
            rows = [
                [{"role": "user", "content": question}, {"role": "assistant", "content": reference(question)}]
                for question in QUESTIONS[shard::1]
            ]
            buffer = io.BytesIO()
            pq.write_table(pa.table({"row_id": list(map(str, range(len(rows)))), "messages": rows}), buffer)
            data = buffer.getvalue() if not damaged else b"PAR1 but not really"
            artifact = await self.store.put_bytes("p", data)
            entries.append({"sha256": artifact.sha256, "size_bytes": artifact.size_bytes, "rows": len(rows)})
        manifest = {"schema": "mainspring.dataset.v1", "root_sha256": "ab" * 32, "splits": {"test": entries}}
        stored = await self.store.put_bytes("p", json.dumps(manifest).encode())
        self.plane.dataset.manifest.CopyFrom(artifact_to_proto(stored))


async def start_evaluator(
    surroundings: Surroundings, database: str, artifact_url: str, plane: tuple[Plane, str], **more: Any
) -> Evaluator:
    made, address = plane
    settings = {
        "registry_address": address,
        "data_ingest_address": address,
        "inference_address": address,
        "embedder_address": address,
        "answer_retry_wait_s": 0.05,
        "answer_tries": 3,
        "run_attempts": 2,
        "lease_s": 2,
        **more,
    }
    replicas = [surroundings.replica("mainspring_evaluator.main", database, **settings) for _ in range(2)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    evaluator = Evaluator(surroundings, database, replicas, made, ArtifactStore(artifact_url))
    made.versions[BASE] = model_pb2.ModelVersion(name=BASE)
    made.versions[BASE].manifest.sha256 = "cd" * 32
    await evaluator.put_dataset()
    return evaluator


async def all_let_go(evaluator: Evaluator) -> None:
    async def nobody_holds() -> bool:
        return not evaluator.plane.holders

    await eventually(nobody_holds, what="all models to be let go")


async def stuck_in_the_midst(evaluator: Evaluator) -> run_pb2.EvaluationRun:
    """A run that has asked for 30 of its 48 answers and gets no more until `may_answer`."""
    plane = evaluator.plane
    await evaluator.put_suite()
    await evaluator.register(1)
    plane.stop_after = 30
    plane.may_answer.clear()
    run = await evaluator.create(version(1), request_id=new_id())

    async def asked() -> bool:
        return sum(plane.asked.values()) >= 30

    await eventually(asked, within_s=30, what="the run to be in the midst of its answers")
    return run
