"""What goes live with a version: filled in, measured, signed, and released as one."""

import json
from dataclasses import replace
from typing import Any

import pytest

from mainspring.events.v1 import registry_events_pb2 as events
from mainspring_registry.application.cards import Cards
from mainspring_registry.application.guards import Guards
from mainspring_registry.application.prompts import Prompts
from mainspring_registry.domain.cards import CardFacts, write_card
from mainspring_registry.domain.catalogue import ModelVersion
from mainspring_registry.domain.gate import GateDecision
from mainspring_registry.domain.lineage import Edge, Relation, edges_of_release
from mainspring_registry.domain.policies import ServingUnit
from mainspring_registry.domain.prompts import PromptText
from mainspring_registry.domain.reconciling import served_unit
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.mapping import unit_from_proto
from mainspring_svckit.values import (
    NO_UNIT,
    GuardAction,
    GuardDirection,
    GuardRule,
    Message,
    PersonalDataKind,
    ServedUnit,
)

from .world import ANNA, BASE, MODEL, POLICY, SUITE, World, evidence

PROMPT = "projects/p/prompts/q"
GUARD = "projects/p/guardPolicies/g"
RULES = (
    GuardRule("secret", GuardDirection.BOTH, GuardAction.REFUSE, "I cannot talk of that.", texts=("zephyr",)),
    GuardRule("own", GuardDirection.OUTPUT, GuardAction.MASK, personal_data=(PersonalDataKind.IBAN,)),
)
TEXT = PromptText((Message("system", "You write {{ language }}."), Message("user", "a"), Message("assistant", "b")))
UNIT = ServingUnit(f"{PROMPT}/versions/1", "projects/p/collections/c", "", 0.0, 64, {"language": "Python"})
SERVED = ServedUnit(
    f"{PROMPT}/versions/1", (Message("system", "You write Python."), *TEXT.messages[1:]), UNIT.collection, 0.0, 64
)


@pytest.fixture
async def prompts(world: World) -> Prompts:
    made = Prompts(world.ports)
    await made.create(PROMPT, TEXT, "", "anna")
    return made


async def measure(
    world: World, version: ModelVersion, candidate: ServedUnit, baseline: ServedUnit, *, of: str = BASE
) -> GateDecision | None:
    found = replace(
        evidence(version, 0.1, of), candidate_unit_sha256=candidate.sha256, baseline_unit_sha256=baseline.sha256
    )
    return await world.gate.apply(version.name, SUITE, found, "cycle")


async def test_a_release_is_signed_and_told_of_with_its_prompt_in_full(world: World, prompts: Prompts) -> None:
    await world.put_policy(replace(POLICY, unit=UNIT))
    version = await world.version()
    assert (await world.gate.units(MODEL)).next == SERVED
    await measure(world, version, SERVED, SERVED)
    (release,) = await world.ports.releases.all()
    assert (release.unit, release.served_unit) == (UNIT, SERVED)
    signed = world.notary.releases[0].details["served_unit"]
    assert signed["prompt"][0] == {"role": "system", "content": "You write Python."}
    (told,) = world.said(events.ModelReleased)
    assert [message.content for message in told.unit.prompt] == ["You write Python.", "a", "b"]
    units = await world.gate.units(MODEL)
    assert (units.active, units.active_model_version) == (SERVED, version.name)


async def test_i7_evidence_with_another_prompt_or_sampling_releases_nothing(world: World, prompts: Prompts) -> None:
    await world.put_policy(replace(POLICY, unit=UNIT))
    version = await world.version()
    for other in (NO_UNIT, replace(SERVED, temperature=0.5), replace(SERVED, prompt=SERVED.prompt[:1])):
        decision = await measure(world, version, other, other)
        assert decision is not None
        assert {reason.split(":")[0] for reason in decision.reasons} == {"unit"}
    with pytest.raises(PreconditionFailed, match="unit: the version was measured with another prompt"):
        await world.releases.create(MODEL, version.name, ANNA)


async def test_a_release_is_signed_measured_and_told_of_with_its_guard_in_full(world: World) -> None:
    guard = await Guards(world.ports).create(GUARD, RULES, "", "anna")
    await world.put_policy(replace(POLICY, unit=ServingUnit(guard_policy=guard.name)))
    version = await world.version()
    served = (await world.gate.units(MODEL)).next
    assert served == ServedUnit(guard=guard.served)
    refused = await measure(world, version, NO_UNIT, NO_UNIT)
    assert refused is not None
    assert {reason.split(":")[0] for reason in refused.reasons} == {"unit"}
    await measure(world, version, served, served)
    (release,) = await world.ports.releases.all()
    assert release.served_unit == served
    signed = json.loads(json.dumps(world.notary.releases[0].details["served_unit"]))
    assert signed["guard"]["sha256"] == guard.served.sha256
    assert served_unit(signed) == served, "a restored database gets it back as it was"
    (told,) = world.said(events.ModelReleased)
    assert unit_from_proto(told.unit) == served
    assert f"| guarded by | {guard.name} |" in await Cards(world.ports).write(version.name)
    assert Edge(guard.name, release.name, Relation.GUARDED_BY) in edges_of_release(release)


async def test_a_guard_that_no_door_could_apply_is_not_written(world: World) -> None:
    guards = Guards(world.ports)
    with pytest.raises(InvalidInput) as caught:
        await guards.create(GUARD, (replace(RULES[0], texts=(), expressions=(r"\S+",)),), "", "anna")
    assert caught.value.reason == "GUARD_POLICY_INVALID"
    too_long = GuardRule("long", GuardDirection.INPUT, GuardAction.RECORD, texts=tuple(f"{n:0200}" for n in range(501)))
    with pytest.raises(InvalidInput, match="100200 characters"):
        await guards.create(GUARD, (too_long,), "", "anna")


async def test_a_better_prompt_for_the_version_that_serves_is_a_release(world: World, prompts: Prompts) -> None:
    await world.put_policy(POLICY)
    version = await world.version()
    await measure(world, version, NO_UNIT, NO_UNIT)
    await world.put_policy(replace(POLICY, unit=UNIT))
    decision = await measure(world, version, SERVED, SERVED, of=version.name)
    assert decision is not None
    assert "than serves" in decision.reasons[0], "the baseline must be asked as it serves"
    await measure(world, version, SERVED, NO_UNIT, of=version.name)
    assert [told.unit.prompt_version for told in world.said(events.ModelReleased)] == ["", SERVED.prompt_version]
    with pytest.raises(PreconditionFailed, match="active already"):
        await world.releases.create(MODEL, version.name, ANNA)
    await world.releases.revoke(f"{MODEL}/releases/2", "worse", ANNA)
    assert (await world.gate.units(MODEL)).active == NO_UNIT


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"guard_policy": f"{GUARD}/versions/2"}, "UNIT_NOT_SERVABLE"),
        ({"guard_policy": "projects/other/guardPolicies/g/versions/1"}, "PROJECTS_MIXED"),
        ({"prompt_version": f"{PROMPT}/versions/2"}, "UNIT_NOT_SERVABLE"),
        ({"prompt_version": ""}, "UNIT_NOT_SERVABLE"),
        ({"prompt_variables": {"language": "x" * 100_000}}, "UNIT_NOT_SERVABLE"),
        ({"prompt_variables": {}}, "UNIT_NOT_SERVABLE"),
        ({"prompt_variables": {"language": "C", "tone": "dry"}}, "UNIT_NOT_SERVABLE"),
        ({"prompt_version": "projects/other/prompts/q/versions/1"}, "PROJECTS_MIXED"),
        ({"collection": "projects/other/collections/c"}, "PROJECTS_MIXED"),
    ],
)
async def test_a_unit_that_no_door_can_apply_is_refused(
    world: World, prompts: Prompts, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await world.put_policy(replace(POLICY, unit=replace(UNIT, **changes)))
    assert caught.value.reason == reason


async def test_a_policy_from_before_units_were_checked_releases_nothing(world: World) -> None:
    await world.ports.policies.put(replace(POLICY, unit=ServingUnit(guard_policy="strict")))
    version = await world.version()
    decision = await measure(world, version, NO_UNIT, NO_UNIT)
    assert decision is not None
    assert decision.reasons == ("unit: there is no guard policy version strict; write it first",)


async def test_a_card_says_what_opens_the_folder(world: World) -> None:
    tuned = await world.version()
    model = (await world.ports.models.get(MODEL) or pytest.fail("no model")).value
    base = (await world.ports.versions.get(BASE) or pytest.fail("no base")).value
    file = tuned.artifacts["adapter.gguf"]
    adapter = replace(tuned, artifacts={"adapter/adapter_config.json": file})
    card = write_card(CardFacts(model, adapter, base, [], ""))
    assert "library_name: peft" in card
    assert "mainspring models export base/1 BASE" in card
    whole = write_card(CardFacts(model, replace(tuned, artifacts={"hf/config.json": file}), base, [], ""))
    assert "library_name: transformers" in whole
    assert "peft" not in whole
    engine_only = write_card(CardFacts(model, tuned, base, [], ""))
    assert "library_name" not in engine_only
    assert "from_pretrained" not in engine_only
