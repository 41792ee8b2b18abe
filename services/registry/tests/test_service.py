"""The registry as its users meet it: gRPC, events in and out, two replicas, real NATS and Postgres."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mainspring.common.v1 import statistics_pb2
from mainspring.events.v1 import evaluation_events_pb2, inference_events_pb2, training_events_pb2
from mainspring.events.v1.registry_events_pb2 import ModelReleased, ModelVersionRegistered, ReleaseRefused
from mainspring.registry.v1 import model_pb2, release_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring.registry.v1 import registry_service_pb2_grpc as pb_grpc
from mainspring_eventkit.bus import Bus
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import InvalidInput, NotFound, PreconditionFailed
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_from_proto, artifact_to_proto
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.waiting import eventually

MODEL = "projects/p/models/m"
BASE = "projects/p/models/base"
SUITE = "projects/p/evaluationSuites/s"
IMPORTER = """
import json, pathlib, sys
request = json.load(sys.stdin)
if request["package"] == "bad":
    print(json.dumps({"reason": "PICKLE_REFUSED", "message": "weights.bin is a pickle"}))
    sys.exit(2)
out = pathlib.Path(request["out"])
(out / "m.gguf").write_bytes(b"weights of " + request["package"].encode())
serving = {"context_tokens": 512, "chat_template": "t", "bos_token": "", "eos_token": "e", "dimensions": 0}
print(json.dumps({"files": {"gguf": "m.gguf"}, "serving": serving, "licence": "MIT", "origin": request["package"]}))
"""


class Registry:
    """Two replicas and somebody who calls them."""

    def __init__(self, surroundings: Surroundings, replicas: list[ServiceProcess], artifacts: ArtifactStore) -> None:
        self.surroundings, self.replicas, self.artifacts = surroundings, replicas, artifacts
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


@pytest.fixture
async def registry(surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, tmp_path: Path) -> Registry:
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{IMPORTER}")
    script.chmod(0o755)
    database = await postgres.new_database("mainspring_registry")
    replicas = [
        surroundings.replica("mainspring_registry.main", database, modelfiles_python=str(script)) for _ in range(2)
    ]
    await asyncio.gather(*(replica.start() for replica in replicas))
    return Registry(surroundings, replicas, ArtifactStore(artifact_url))


async def test_a_model_is_imported_trained_measured_and_released(
    registry: Registry, bus: Bus, event_tap: EventTap
) -> None:
    done = await registry.import_base()
    assert (done.state, done.model_version) == (model_pb2.ModelImport.STATE_SUCCEEDED, f"{BASE}/versions/1")
    cycle = new_id()
    await registry.apply_policy()
    run = await registry.run_succeeded(1)
    for _ in range(3):  # The bus delivers at least once; the effect is single.
        await publish(bus, run, cycle=cycle, event_id=f"run-{run.training_run}")
    registered = await event_tap.wait_for(ModelVersionRegistered, count=2)
    version = registered[1].model_version
    assert version == f"{MODEL}/versions/1"
    await publish(bus, await registry.evaluated(version, 0.1), cycle=cycle)
    (released,) = await event_tap.wait_for(ModelReleased)
    assert released.release == f"{MODEL}/releases/1"
    promoted = inference_events_pb2.RolloutPromoted(
        rollout="projects/p/rollouts/x", release=released.release, model_version=version
    )
    await publish(bus, promoted, cycle=cycle)

    async def champion() -> bool:
        try:
            found = await registry.call("GetModelVersion", name=f"{MODEL}@champion")
        except NotFound:
            return False
        return found.model_version.name == version

    await eventually(champion, what="the champion to move")
    decisions = (await registry.call("ListGateDecisions", parent=MODEL)).gate_decisions
    assert [decision.outcome for decision in decisions] == [release_pb2.GateDecision.OUTCOME_ALLOWED]

    async def drawn() -> bool:
        steps = (await registry.call("GetCycle", name=f"projects/p/cycles/{cycle}")).cycle.steps
        kinds = {step.event_type.removeprefix("mainspring.") for step in steps}
        return kinds == {
            "training.run.succeeded.v1",
            "registry.model_version.registered.v1",
            "evaluation.run.completed.v1",
            "registry.model.released.v1",
            "inference.rollout.promoted.v1",
        }

    await eventually(drawn, what="the turn to be drawn whole")
    answer = "projects/p/answers/a"
    answered = inference_events_pb2.ResponseCompleted(answer=answer, model_version=version, release=released.release)
    await publish(bus, answered)

    async def traced() -> bool:
        try:
            up = await registry.call("GetLineage", name=answer)
        except NotFound:
            return False
        return {run.training_run, run.dataset_version, f"{BASE}/versions/1", done.name} <= {n.name for n in up.nodes}

    await eventually(traced, what="the answer to be traced back")
    down = await registry.call(
        "GetLineage", name=run.dataset_version, direction=pb.GetLineageRequest.DIRECTION_DOWNSTREAM
    )
    assert {version, released.release, released.gate_decision} <= {node.name for node in down.nodes}
    assert answer not in {node.name for node in down.nodes}
    manifest = (await registry.call("GetModelVersion", name=version)).model_version.manifest
    stored = await registry.artifacts.read("p", artifact_from_proto(manifest))
    assert json.loads(stored)["lineage"]["training_run"] == run.training_run


async def test_a_worse_version_is_refused_and_a_hand_cannot_release_it(
    registry: Registry, bus: Bus, event_tap: EventTap
) -> None:
    await registry.import_base()
    await registry.apply_policy()
    await publish(bus, await registry.run_succeeded(1))
    await event_tap.wait_for(ModelVersionRegistered, count=2)
    version = f"{MODEL}/versions/1"
    await publish(bus, await registry.evaluated(version, -0.3))
    (refused,) = await event_tap.wait_for(ReleaseRefused)
    assert "rouge_l" in refused.reasons[0]
    with pytest.raises(PreconditionFailed) as caught:
        await registry.call("CreateRelease", parent=MODEL, model_version=version)
    assert caught.value.reason == "RELEASE_NOT_ALLOWED"


async def test_i3_two_replicas_release_in_order_and_only_one_is_active(
    registry: Registry, bus: Bus, event_tap: EventTap
) -> None:
    await registry.import_base()
    await registry.apply_policy()
    baseline = f"{BASE}/versions/1"
    for number in range(1, 6):
        await publish(bus, await registry.run_succeeded(number))
        await event_tap.wait_for(ModelVersionRegistered, count=number + 1)
        version = f"{MODEL}/versions/{number}"
        measured = await registry.evaluated(version, 0.1, baseline)
        await asyncio.gather(*(publish(bus, measured, event_id=f"e{number}") for _ in range(4)))
        await event_tap.wait_for(ModelReleased, count=number)
        baseline = version
    assert [event.release_number for event in event_tap.of(ModelReleased)] == [1, 2, 3, 4, 5]
    releases = (await registry.call("ListReleases", parent=MODEL)).releases
    active = [release.name for release in releases if release.state == release_pb2.Release.STATE_ACTIVE]
    assert active == [f"{MODEL}/releases/5"]
    assert [release.name.rsplit("/", 1)[-1] for release in releases] == ["5", "4", "3", "2", "1"]


@pytest.mark.parametrize(
    "point",
    [
        "registry-runs:before-effect",
        "registry-runs:before-commit",
        "registry-runs:before-ack",
        "outbox:before-publish",
        "outbox:after-publish",
    ],
)
async def test_f1_killed_at_any_point_the_version_is_registered_once(
    registry: Registry, bus: Bus, event_tap: EventTap, point: str
) -> None:
    await registry.import_base()
    first, second = registry.replicas
    await second.stop()
    await first.kill()
    await first.start(ready=False, MAINSPRING_CRASH_AT=point)
    await publish(bus, await registry.run_succeeded(1))
    assert await first.wait() == 137
    await second.start()
    registry.replicas = [second]
    registered = await event_tap.wait_for(ModelVersionRegistered, count=2, within_s=45)
    assert [event.model_version for event in registered] == [f"{BASE}/versions/1", f"{MODEL}/versions/1"]
    versions = (await registry.call("ListModelVersions", parent=MODEL)).model_versions
    assert [version.name for version in versions] == [f"{MODEL}/versions/1"]


async def test_imports_that_cannot_be_say_why(registry: Registry) -> None:
    refused = await registry.import_base("bad")
    assert refused.state == model_pb2.ModelImport.STATE_FAILED
    assert refused.error.message == "weights.bin is a pickle"
    wish = model_pb2.ModelImport(model=BASE, kind=model_pb2.MODEL_KIND_FOUNDATION, path="/etc")
    outside = await registry.call("CreateModelImport", parent="projects/p", model_import=wish)

    async def failed() -> bool:
        found = await registry.call("GetModelImport", name=outside.model_import.name)
        return "not below an import root" in found.model_import.error.message

    await eventually(failed)


async def test_requests_are_checked_and_repeats_are_one(registry: Registry) -> None:
    with pytest.raises(InvalidInput) as caught:
        await registry.call("CreateModelImport", parent="projects/p", model_import=model_pb2.ModelImport(model="m"))
    assert {v.field for v in caught.value.violations} >= {"model_import.model", "model_import.source"}
    wish = model_pb2.ModelImport(model=BASE, kind=model_pb2.MODEL_KIND_FOUNDATION, package="base")
    request_id = new_id()
    both = [
        await registry.call("CreateModelImport", parent="projects/p", model_import=wish, request_id=request_id)
        for _ in range(2)
    ]
    assert both[0] == both[1]
    assert len((await registry.call("ListModelImports", parent="projects/p")).model_imports) == 1
