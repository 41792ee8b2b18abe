"""What the evaluator adds to the time of generation, what a second identical run costs, and whether its metric values
are the libraries' own, where there is an E2E table.

The evaluator is the real process with real Postgres and NATS. Registry, data-ingest and the engine are stood in for:
an answer takes `ANSWER_S`, eight at a time, which is 32 answers a second and several times quicker than the engine is
on two cores, so the overhead is told too high rather than too low.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench import metric_values
from bench.figures import Bar, Figure, Result
from mainspring.data.v1 import data_service_pb2, dataset_pb2
from mainspring.evaluation.v1 import evaluation_service_pb2 as pb
from mainspring.evaluation.v1 import evaluation_service_pb2_grpc, run_pb2, suite_pb2
from mainspring.inference.v1 import (
    answer_pb2,
    deployment_pb2,
    deployment_service_pb2,
    inference_service_pb2,
    inference_service_pb2_grpc,
)
from mainspring.registry.v1 import model_pb2, registry_service_pb2
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.auth import LocalIssuer, TokenVerifier
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.mapping import artifact_to_proto, duration_to_proto
from mainspring_testkit.neighbours import Neighbours, NeighbourServer
from mainspring_testkit.servers import NatsServer, PostgresServer, scratch_folder
from mainspring_testkit.service import Surroundings

ITEMS, ANSWER_S, AT_A_TIME = 1_000, 0.25, 8
MODEL, SUITE = "projects/p/models/m", "projects/p/evaluationSuites/s"
CANDIDATE, BASE = f"{MODEL}/versions/1", "projects/p/models/base/versions/1"
DATA = "projects/p/datasets/d/versions/1"
SCORERS = ("rouge_l", "bleu", "chrf", "token_f1", "exact_match", "answer_words")
_SERVICES = (
    "registry.v1.RegistryService",
    "data.v1.DataService",
    "inference.v1.DeploymentService",
    "inference.v1.InferenceService",
)


class Plane:
    """Registry, data-ingest and inference as the evaluator sees them."""

    def __init__(self) -> None:
        self.manifest = dataset_pb2.DatasetVersion(name=DATA)
        self.answers = 0
        self._free = asyncio.Semaphore(AT_A_TIME)

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        version = model_pb2.ModelVersion(name=request.name)
        version.manifest.sha256 = ("ab" if request.name == BASE else "cd") * 32
        if request.name != BASE:
            version.base_model_version, version.lineage.dataset_version = BASE, DATA
        return registry_service_pb2.GetModelVersionResponse(model_version=version)

    async def GetModel(self, request: Any, context: Any) -> Any:
        return registry_service_pb2.GetModelResponse(model=model_pb2.Model(name=request.name))

    async def GetServedUnits(self, request: Any, context: Any) -> Any:
        return registry_service_pb2.GetServedUnitsResponse()

    async def GetDatasetVersion(self, request: Any, context: Any) -> Any:
        return data_service_pb2.GetDatasetVersionResponse(dataset_version=self.manifest)

    async def AcquireDeployment(self, request: Any, context: Any) -> Any:
        ready = deployment_pb2.Deployment(
            name="projects/p/deployments/d",
            model_version=request.model_version,
            state=deployment_pb2.Deployment.STATE_READY,
        )
        return deployment_service_pb2.AcquireDeploymentResponse(deployment=ready)

    async def ListDeployments(self, request: Any, context: Any) -> Any:
        return deployment_service_pb2.ListDeploymentsResponse()

    async def WatchDeployment(self, request: Any, context: Any) -> AsyncIterator[Any]:
        ready = deployment_pb2.Deployment(name=request.name, state=deployment_pb2.Deployment.STATE_READY)
        yield deployment_service_pb2.WatchDeploymentResponse(deployment=ready)

    async def GenerateAnswer(self, request: Any, context: Any) -> Any:
        async with self._free:
            await asyncio.sleep(ANSWER_S)
        self.answers += 1
        words = request.messages[-1].content.split()
        said = words if request.model != BASE else words[::-1]
        answer = answer_pb2.Answer(text=" ".join(said), latency=duration_to_proto(ANSWER_S))
        return inference_service_pb2.GenerateAnswerResponse(answer=answer)


async def measure(table: Path | None = None) -> Result:
    """Generates bare, then through a run, then runs again, and compares metric values where there is an E2E table."""
    async with scratch_folder("bench") as folder, AsyncExitStack() as cleanup:
        nats, postgres = NatsServer(folder / "nats"), PostgresServer(folder / "postgres")
        for server in (nats, postgres):
            cleanup.push_async_callback(server.stop)
            await server.start()
        issuer, artifacts = LocalIssuer.create(), f"file://{folder}/artifacts"
        surroundings = Surroundings(folder / "services", issuer, nats.url, artifacts)
        cleanup.push_async_callback(surroundings.stop)
        plane = Plane()
        token = issuer.issue("service:bench", ["*"], ["service"], 3_600)
        served = NeighbourServer(TokenVerifier(issuer.jwks(), "mainspring-local"), token)
        cleanup.push_async_callback(served.stop)
        around = await served.start(plane, *_SERVICES)
        await _put_data(plane, ArtifactStore(artifacts))
        addresses = dict.fromkeys(("registry_address", "data_ingest_address", "inference_address"), around.address)
        database = await postgres.new_database("mainspring_evaluator")
        replica = surroundings.replica("mainspring_evaluator.main", database, answers_at_a_time=AT_A_TIME, **addresses)
        await replica.start()
        bare_s = await _bare(around)
        caller, stub = surroundings.caller("admin"), evaluation_service_pb2_grpc.EvaluationServiceStub(replica.channel)
        suite = suite_pb2.EvaluationSuite(name=SUITE, model=MODEL, scorers=SCORERS)
        wanted = pb.UpdateEvaluationSuiteRequest(evaluation_suite=suite, allow_missing=True)
        await caller.unary(stub.UpdateEvaluationSuite, wanted, pb.UpdateEvaluationSuiteResponse)
        run_s, first = await _run(caller, stub)
        made = plane.answers
        again = [await _run(caller, stub) for _ in range(3)]
        assert plane.answers == made, "a second run generated"
        assert all(other.results == first.results for _, other in again)
        values = await metric_values.compare(table, folder) if table is not None else []
        return Result(
            "evidence-evaluator",
            [
                Figure("bare generation, candidate and baseline", "s", bare_s),
                Figure("the same as a run, with its scores", "s", run_s),
                Figure("overhead of a run", "%", 100 * (run_s / bare_s - 1), bar=Bar(5)),
                Figure.of("a second identical run", "s", [seconds for seconds, _ in again], Bar(2)),
                *values,
            ],
            {
                "items": ITEMS,
                "answer_s": ANSWER_S,
                "at_a_time": AT_A_TIME,
                "scorers": list(SCORERS),
                "metric_values": f"compared on {table}" if table is not None else "not compared; set MAINSPRING_E2E",
            },
        )


def _questions() -> list[str]:
    return [f"question {n} about " + " ".join(f"thing{(n * k) % 97}" for k in range(1, 13)) for n in range(ITEMS)]


async def _put_data(plane: Plane, store: ArtifactStore) -> None:
    rows = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": question + " indeed"}]
        for question in _questions()
    ]
    file = io.BytesIO()
    pq.write_table(pa.table({"messages": rows}), file)
    shard = await store.put_bytes("p", file.getvalue())
    entry = {"sha256": shard.sha256, "size_bytes": shard.size_bytes, "rows": ITEMS}
    manifest = {"schema": "mainspring.dataset.v1", "root_sha256": "ef" * 32, "splits": {"test": [entry]}}
    stored = await store.put_bytes("p", json.dumps(manifest).encode())
    plane.manifest.manifest.CopyFrom(artifact_to_proto(stored))


async def _bare(around: Neighbours) -> float:
    """Asks for every answer of both versions, as many at a time as the evaluator does; to the last, as a run waits."""
    stub: Any = inference_service_pb2_grpc.InferenceServiceStub(around.channel)
    began = time.monotonic()
    for version in (CANDIDATE, BASE):
        waiting = iter(_questions())

        async def work(version: str = version, waiting: Any = waiting) -> None:
            for question in waiting:
                request = inference_service_pb2.GenerateAnswerRequest(parent="projects/p", model=version)
                request.messages.add(role=2, content=question)
                await around.caller.unary(
                    stub.GenerateAnswer, request, inference_service_pb2.GenerateAnswerResponse, timeout_s=60
                )

        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    return time.monotonic() - began


async def _run(caller: Caller, stub: Any) -> tuple[float, run_pb2.EvaluationRun]:
    """Seconds from the wish to the stored result, and the run."""
    began = time.monotonic()
    request = pb.CreateEvaluationRunRequest(parent="projects/p", evaluation_suite=SUITE, candidate=CANDIDATE)
    answer = await caller.unary(stub.CreateEvaluationRun, request, pb.CreateEvaluationRunResponse)
    run = answer.evaluation_run
    watch = pb.WatchEvaluationRunRequest(name=run.name)
    async for update in caller.stream(stub.WatchEvaluationRun, watch, pb.WatchEvaluationRunResponse):
        run = update.evaluation_run
    assert run.state == run_pb2.EvaluationRun.STATE_SUCCEEDED, run.error.message
    return time.monotonic() - began, run
