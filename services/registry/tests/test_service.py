"""The registry as its users meet it: gRPC, events in and out, two replicas, real NATS and Postgres."""

import asyncio
import json
from typing import Any

import pytest

from mainspring.common.v1 import chat_pb2, guard_pb2
from mainspring.events.v1 import inference_events_pb2
from mainspring.events.v1.registry_events_pb2 import ModelReleased, ModelVersionRegistered, ReleaseRefused
from mainspring.registry.v1 import (
    compression_service_pb2,
    compression_service_pb2_grpc,
    guard_policy_pb2,
    guard_policy_service_pb2,
    guard_policy_service_pb2_grpc,
    model_pb2,
    prompt_pb2,
    prompt_service_pb2,
    prompt_service_pb2_grpc,
    quantization_pb2,
    release_pb2,
)
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring_eventkit.bus import Bus
from mainspring_svckit.errors import InvalidInput, NotFound, PreconditionFailed
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.waiting import eventually

from .processes import BASE, MODEL, Registry


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


async def test_a_version_is_compressed_once_however_often_it_is_asked_for(registry: Registry) -> None:
    await registry.import_base()
    stub: Any = compression_service_pb2_grpc.CompressionServiceStub(registry.replicas[0].channel)
    pb2 = compression_service_pb2
    wish = quantization_pb2.Quantization(
        source_model_version=f"{BASE}/versions/1", format=quantization_pb2.QUANTIZATION_FORMAT_Q4_K_M
    )
    request = pb2.CreateQuantizationRequest(parent="projects/p", quantization=wish, request_id=new_id())
    made = [
        await registry.caller.unary(stub.CreateQuantization, request, pb2.CreateQuantizationResponse) for _ in range(2)
    ]
    assert made[0] == made[1]
    watch = pb2.WatchQuantizationRequest(name=made[0].quantization.name)
    seen = [
        response.quantization
        async for response in registry.caller.stream(stub.WatchQuantization, watch, pb2.WatchQuantizationResponse)
    ]
    assert seen[-1].state == quantization_pb2.Quantization.STATE_SUCCEEDED
    assert (seen[-1].model_version, dict(seen[-1].tensor_types)) == (f"{BASE}/versions/2", {"Q4_K": 3})
    assert (seen[-1].before.resident_bytes, seen[-1].after.tokens_per_second) == (9, 1.0)
    found = (await registry.call("GetModelVersion", name=f"{BASE}/versions/2")).model_version
    assert found.lineage.quantized_from == f"{BASE}/versions/1"
    assert await registry.artifacts.read("p", artifact_from_proto(found.artifacts["gguf"])) == b"weights"
    listed = await registry.caller.unary(
        stub.ListQuantizations, pb2.ListQuantizationsRequest(parent="projects/p"), pb2.ListQuantizationsResponse
    )
    assert listed.quantizations == [seen[-1]]
    with pytest.raises(InvalidInput):
        await registry.caller.unary(
            stub.CreateQuantization,
            pb2.CreateQuantizationRequest(parent="projects/p", quantization=quantization_pb2.Quantization()),
            pb2.CreateQuantizationResponse,
        )


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
    policy = release_pb2.ReleasePolicy(
        name="projects/p/releasePolicies/r", model=MODEL, evaluation_suite="projects/p/evaluationSuites/s",
        primary_scorer="bleu", suite_sha256="abc", min_confidence_level=0.4,
    )  # fmt: skip
    with pytest.raises(InvalidInput) as caught:
        await registry.call("UpdateReleasePolicy", release_policy=policy, allow_missing=True)
    assert {v.field for v in caught.value.violations} == {
        "release_policy.suite_sha256", "release_policy.min_confidence_level",
    }  # fmt: skip
    wish = model_pb2.ModelImport(model=BASE, kind=model_pb2.MODEL_KIND_FOUNDATION, package="base")
    request_id = new_id()
    both = [
        await registry.call("CreateModelImport", parent="projects/p", model_import=wish, request_id=request_id)
        for _ in range(2)
    ]
    assert both[0] == both[1]
    assert len((await registry.call("ListModelImports", parent="projects/p")).model_imports) == 1


async def test_prompts_have_versions_and_labels_and_are_a_projects_own(registry: Registry) -> None:
    caller, prompt = registry.surroundings.caller("admin"), "projects/p/prompts/q"
    stub: Any = prompt_service_pb2_grpc.PromptServiceStub(registry.replicas[1].channel)

    async def call(method: str, **fields: Any) -> Any:
        request = getattr(prompt_service_pb2, f"{method}Request")(**fields)
        return await caller.unary(getattr(stub, method), request, getattr(prompt_service_pb2, f"{method}Response"))

    async def write(text: str) -> prompt_pb2.PromptVersion:
        message = chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_SYSTEM, content=text)
        wish = prompt_pb2.PromptVersion(messages=[message], comment="why")
        made = await call("CreatePromptVersion", parent=prompt, prompt_version=wish, request_id=new_id())
        return made.prompt_version

    first = await write("Write {{ language }}, {{tone}}.")
    assert (first.name, list(first.variables)) == (f"{prompt}/versions/1", ["language", "tone"])
    assert await write("Write {{ language }}, {{tone}}.") == first, "the newest one's own text is that version"
    second = await write("Write.")
    assert (second.name, second.author, second.comment) == (f"{prompt}/versions/2", "tester", "why")
    assert second.sha256 != first.sha256
    await call("SetPromptLabel", name=prompt, label="production", prompt_version=first.name, request_id=new_id())
    assert (await call("GetPromptVersion", name=f"{prompt}@production")).prompt_version == first
    listed = (await call("ListPromptVersions", parent=prompt)).prompt_versions
    assert [version.name for version in listed] == [second.name, first.name]
    (found,) = (await call("ListPrompts", parent="projects/p")).prompts
    assert (found.latest_version, dict(found.labels)) == (second.name, {"production": "1"})
    with pytest.raises(NotFound):
        await call("ListPrompts", parent="projects/q")
    for name in (f"{prompt}/versions/3", f"{prompt}@staging", "projects/q/prompts/q/versions/1"):
        with pytest.raises(NotFound):
            await call("GetPromptVersion", name=name)
    with pytest.raises(InvalidInput):
        await call("SetPromptLabel", name="projects/p/prompts/other", label="x", prompt_version=first.name)


async def test_guard_policies_have_versions_and_labels_and_are_checked_when_written(
    registry: Registry,
) -> None:
    caller, policy, rule = registry.surroundings.caller("admin"), "projects/p/guardPolicies/g", guard_pb2.GuardRule
    stub: Any = guard_policy_service_pb2_grpc.GuardPolicyServiceStub(registry.replicas[1].channel)

    async def call(method: str, **fields: Any) -> Any:
        request = getattr(guard_policy_service_pb2, f"{method}Request")(**fields)
        response = getattr(guard_policy_service_pb2, f"{method}Response")
        return await caller.unary(getattr(stub, method), request, response)

    async def write(**fields: Any) -> guard_policy_pb2.GuardPolicyVersion:
        fields = {"id": "r", "direction": rule.DIRECTION_BOTH, "action": rule.ACTION_MASK, **fields}
        wish = guard_policy_pb2.GuardPolicyVersion(rules=[rule(**fields)], comment="why")
        made = await call("CreateGuardPolicyVersion", parent=policy, guard_policy_version=wish, request_id=new_id())
        return made.guard_policy_version

    first = await write(expressions=[r"\bk-\d{3,9}\b"], exact=True)
    assert (first.name, first.author, first.comment) == (f"{policy}/versions/1", "tester", "why")
    assert await write(expressions=[r"\bk-\d{3,9}\b"], exact=True) == first
    second = await write(personal_data=[rule.PERSONAL_DATA_IBAN])
    assert (second.name, len(second.sha256)) == (f"{policy}/versions/2", 64)
    assert second.sha256 != first.sha256
    await call("SetGuardPolicyLabel", name=policy, label="production", guard_policy_version=first.name)
    assert (await call("GetGuardPolicyVersion", name=f"{policy}@production")).guard_policy_version == first
    listed = (await call("ListGuardPolicyVersions", parent=policy)).guard_policy_versions
    assert list(listed) == [second, first]
    (found,) = (await call("ListGuardPolicies", parent="projects/p")).guard_policies
    assert (found.latest_version, dict(found.labels)) == (second.name, {"production": "1"})
    for name in (f"{policy}/versions/3", f"{policy}@staging", "projects/q/guardPolicies/g/versions/1"):
        with pytest.raises(NotFound):
            await call("GetGuardPolicyVersion", name=name)
    for fields in (
        {"expressions": ["(a+"]},
        {"expressions": [r"\S+"]},
        {"texts": ["a"], "max_characters": 3},
        {"texts": ["a"], "action": rule.ACTION_REFUSE},
        {"max_characters": 3},
        {"texts": ["a"], "id": "R"},
    ):
        with pytest.raises(InvalidInput):
            await write(**fields)
