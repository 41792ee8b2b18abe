"""Releases to durable subscribers: by two registry replicas, one of which is killed half-way. Nothing may be lost,
nothing out of order within a model, and no handler may see an event twice.

Versions, evidence, gate and releases are the registry's own; what comes from trainer and evaluator is published here.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Bar, Figure, Result
from bench.machine import ROOT
from mainspring.common.v1 import statistics_pb2
from mainspring.events.v1 import evaluation_events_pb2, registry_events_pb2, training_events_pb2
from mainspring.registry.v1 import model_pb2, registry_service_pb2_grpc, release_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring_client.subscription import subscribe
from mainspring_eventkit.bus import Bus
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.auth import LocalIssuer
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_testkit.events import publish
from mainspring_testkit.servers import NatsServer, PostgresServer, scratch_folder
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.tiny import tiny_llama
from mainspring_testkit.waiting import eventually

PROJECT = "projects/p"
BASE = f"{PROJECT}/models/base"
SUITE = f"{PROJECT}/evaluationSuites/s"
RELEASED = "mainspring.registry.model.released.v1"
MODELS = 10
STEP_S = 120


@dataclass
class Heard:
    """What one subscriber's handler was given: event ids, and release numbers by model in the order they came."""

    ids: list[str] = field(default_factory=list[str])
    numbers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list[int]))


async def measure(releases: int = 1000, subscribers: int = 50, models: int = MODELS) -> Result:
    """Makes `releases` releases of `models` models while `subscribers` durable subscribers listen."""
    async with scratch_folder("bench") as folder:
        nats, postgres = NatsServer(folder / "nats"), PostgresServer(folder / "postgres")
        async with AsyncExitStack() as cleanup:
            for server in (nats, postgres):
                cleanup.push_async_callback(server.stop)
                await server.start()
            artifacts = f"file://{folder}/artifacts"
            surroundings = Surroundings(folder / "services", LocalIssuer.create(), nats.url, artifacts)
            cleanup.push_async_callback(surroundings.stop)
            return await _measure(folder, nats, postgres, surroundings, releases, subscribers, models)


async def _measure(
    folder: Path,
    nats: NatsServer,
    postgres: PostgresServer,
    surroundings: Surroundings,
    releases: int,
    subscribers: int,
    models: int,
) -> Result:
    database = await postgres.new_database("mainspring_registry")
    tiny_llama(folder / "models" / "llama")
    replicas = [
        surroundings.replica(
            "mainspring_registry.main",
            database,
            modelfiles_python=str(ROOT / ".venv-train" / "bin" / "python"),
            import_roots=[str(folder / "models")],
        )
        for _ in range(2)
    ]
    await asyncio.gather(*(replica.start() for replica in replicas))
    bus = await Bus.connect(nats.url, name="bench")
    factory = _Factory(bus, surroundings, replicas, ArtifactStore(f"file://{folder}/artifacts"), releases // 2)
    await factory.import_base(folder / "models" / "llama")
    heard = [Heard() for _ in range(subscribers)]
    listening = [asyncio.create_task(_listen(nats.url, f"backend-{number}", one)) for number, one in enumerate(heard)]
    driver = asyncio.create_task(factory.follow(nats.url))
    began = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(models):
                count = releases // models + (1 if number < releases % models else 0)
                group.create_task(factory.release(f"{PROJECT}/models/m{number}", count))
        made_s = time.monotonic() - began

        async def all_heard() -> bool:
            return all(len(one.ids) >= releases for one in heard)

        with suppress(AssertionError):  # What is missing is counted below.
            await eventually(all_heard, within_s=300, what="every subscriber to have heard everything")
        heard_s = time.monotonic() - began
    finally:
        for task in (*listening, driver):
            task.cancel()
        await asyncio.gather(*listening, driver, return_exceptions=True)
        await bus.close()
    return _result(heard, releases, made_s, heard_s, factory.killed)


def _result(heard: list[Heard], releases: int, made_s: float, heard_s: float, killed: bool) -> Result:
    lost = sum(max(0, releases - len(set(one.ids))) for one in heard)
    twice = sum(len(one.ids) - len(set(one.ids)) for one in heard)
    disordered = sum(numbers != list(range(1, len(numbers) + 1)) for one in heard for numbers in one.numbers.values())
    return Result(
        "evidence-events",
        [
            Figure("events that a subscriber did not hear", "events", lost, bar=Bar(0)),
            Figure("events that a handler saw twice", "events", twice, bar=Bar(0)),
            Figure("models whose releases came out of order or with gaps", "models", disordered, bar=Bar(0)),
            Figure("from the first wish to the last release", "s", made_s),
            Figure("until every subscriber had heard everything", "s", heard_s),
            Figure("events handled a second, all subscribers together", "1/s", releases * len(heard) / heard_s),
        ],
        {"releases": releases, "subscribers": len(heard), "replica_killed": killed},
    )


async def _listen(nats_url: str, durable: str, into: Heard) -> None:
    async for event in subscribe(nats_url, "p", [RELEASED], durable=durable):
        into.ids.append(event.id)
        assert isinstance(event.data, registry_events_pb2.ModelReleased)
        into.numbers[event.data.model].append(event.data.release_number)


class _Factory:
    """What trainer and evaluator would say, and a kill half-way."""

    def __init__(
        self,
        bus: Bus,
        surroundings: Surroundings,
        replicas: list[ServiceProcess],
        artifacts: ArtifactStore,
        kill_after: int,
    ) -> None:
        self._bus, self._replicas, self._artifacts, self._kill_after = bus, replicas, artifacts, kill_after
        self._caller = surroundings.caller("admin")
        self._waiting: dict[tuple[type, str], asyncio.Future[Any]] = {}
        self._made = 0
        self.killed = False

    async def follow(self, nats_url: str) -> None:
        """Hands what the registry tells to those who wait for it."""
        async for event in subscribe(nats_url, "p", ["mainspring.registry.>"]):
            data = event.data
            if isinstance(data, registry_events_pb2.ModelVersionRegistered | registry_events_pb2.ModelReleased):
                waiting = self._waiting.pop((type(data), data.model_version), None)
                if waiting is not None:
                    waiting.set_result(data)

    async def import_base(self, path: Path) -> None:
        """Brings the foundation model in."""
        wish = model_pb2.ModelImport(model=BASE, kind=model_pb2.MODEL_KIND_FOUNDATION, path=str(path))
        made = await self._call("CreateModelImport", parent=PROJECT, model_import=wish, request_id=new_id())

        async def there() -> bool:
            found = (await self._call("GetModelImport", name=made.model_import.name)).model_import
            assert found.state != model_pb2.ModelImport.STATE_FAILED or not found.error.message, found.error.message
            return found.state == model_pb2.ModelImport.STATE_SUCCEEDED

        await eventually(there, within_s=60, what="the base to be imported")

    async def release(self, model: str, count: int) -> None:
        """Trains, measures and has released `count` versions of a model, one after the other."""
        policy = release_pb2.ReleasePolicy(
            name=f"{PROJECT}/releasePolicies/{model.rsplit('/', 1)[-1]}",
            model=model,
            evaluation_suite=SUITE,
            primary_scorer="rouge_l",
        )
        await self._call("UpdateReleasePolicy", release_policy=policy, allow_missing=True, request_id=new_id())
        baseline = f"{BASE}/versions/1"
        for number in range(1, count + 1):
            version = f"{model}/versions/{number}"
            registered = self._wait(registry_events_pb2.ModelVersionRegistered, version)
            await publish(self._bus, await self._run(model, number))
            event = await asyncio.wait_for(registered, STEP_S)
            released = self._wait(registry_events_pb2.ModelReleased, version)
            await publish(self._bus, _evaluated(version, event.manifest.sha256, baseline))
            await asyncio.wait_for(released, STEP_S)
            baseline = version
            await self._count()

    async def _count(self) -> None:
        self._made += 1
        if self._made == self._kill_after:
            await self._replicas[0].kill()
            self.killed = True

    def _wait(self, kind: type, version: str) -> asyncio.Future[Any]:
        return self._waiting.setdefault((kind, version), asyncio.get_running_loop().create_future())

    async def _run(self, model: str, number: int) -> training_events_pb2.TrainingRunSucceeded:
        artifact = await self._artifacts.put_bytes("p", f"adapter {model} {number}".encode())
        event = training_events_pb2.TrainingRunSucceeded(
            training_run=f"{PROJECT}/trainingRuns/{new_id()}",
            model=model,
            base_model_version=f"{BASE}/versions/1",
            dataset_version=f"{PROJECT}/datasets/d/versions/1",
            tuning_recipe=f"{PROJECT}/tuningRecipes/t",
        )
        event.artifacts["adapter.gguf"].CopyFrom(artifact_to_proto(artifact))
        return event

    async def _call(self, method: str, **fields: Any) -> Any:
        stub: Any = registry_service_pb2_grpc.RegistryServiceStub(self._replicas[-1].channel)
        request = getattr(pb, f"{method}Request")(**fields)
        return await self._caller.unary(getattr(stub, method), request, getattr(pb, f"{method}Response"))


def _evaluated(version: str, manifest: str, baseline: str) -> evaluation_events_pb2.EvaluationRunCompleted:
    estimate = statistics_pb2.Estimate(value=0.5, low=0.4, high=0.6, confidence_level=0.95)
    difference = statistics_pb2.Estimate(value=0.2, low=0.1, high=0.3, confidence_level=0.95)
    return evaluation_events_pb2.EvaluationRunCompleted(
        evaluation_run=f"{PROJECT}/evaluationRuns/{new_id()}",
        evaluation_suite=SUITE,
        candidate=version,
        candidate_manifest_sha256=manifest,
        baseline=baseline,
        items=100,
        results=[
            statistics_pb2.ScorerResult(scorer="rouge_l", candidate=estimate, baseline=estimate, difference=difference)
        ],
        fidelity=statistics_pb2.Fidelity(mean_kl_nats=0.01, top1_agreement=0.97, positions=64),
    )
