"""Use cases over fakes: what is stored, what is announced."""

from dataclasses import replace

import pytest

from mainspring.events.v1 import registry_events_pb2 as events
from mainspring_registry.application.cycles import Cycles
from mainspring_registry.application.imports import CreateModelImport
from mainspring_registry.application.ledger import Ledger
from mainspring_registry.application.lineage import Lineages
from mainspring_registry.domain.catalogue import Lineage, Model, ModelKind, ServingSpec
from mainspring_registry.domain.cycles import CycleStep
from mainspring_registry.domain.gate import Outcome
from mainspring_registry.domain.history import HistoryKind
from mainspring_registry.domain.lineage import Direction
from mainspring_registry.domain.making import MakingState
from mainspring_registry.domain.releases import ReleaseState
from mainspring_svckit.errors import EtagMismatch, IllegalTransition, InvalidInput, NotFound, PreconditionFailed
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.fakes import (
    FakeClock,
    FakeLease,
)

from .world import ANNA, BASE, MODEL, POLICY, SUITE, World, evidence


async def test_a_run_becomes_one_version_however_often_it_is_told(world: World) -> None:
    first, again, other = await world.version("r1"), await world.version("r1"), await world.version("r2")
    assert first == again
    assert [first.name, other.name] == [f"{MODEL}/versions/1", f"{MODEL}/versions/2"]
    assert first.serving == ServingSpec(2048, "template")
    assert [event.model_version for event in world.said(events.ModelVersionRegistered)] == [
        BASE,
        first.name,
        other.name,
    ]


async def test_i5_a_version_without_all_its_files_does_not_appear(world: World) -> None:
    await world.base()
    trained = replace(await world.trained("r"), artifacts={"adapter.gguf": ArtifactRef("0" * 64, 3)})
    with pytest.raises(PreconditionFailed) as caught:
        await world.catalogue.register_adapter(trained)
    assert caught.value.reason == "ARTIFACTS_MISSING"
    assert len(world.said(events.ModelVersionRegistered)) == 1


async def test_a_foundation_models_name_cannot_take_adapters(world: World) -> None:
    await world.base()
    trained = replace(await world.trained("r"), model="projects/p/models/base")
    with pytest.raises(PreconditionFailed, match="choose another name"):
        await world.catalogue.register_adapter(trained)


async def test_a_whole_model_that_was_trained_is_a_foundation_model_served_as_its_base(world: World) -> None:
    await world.base()
    trained = await world.trained("r")
    trained = replace(trained, artifacts={"gguf": trained.artifacts["adapter.gguf"]})
    version = await world.catalogue.register_adapter(trained)
    assert (version.kind, version.serving) == (ModelKind.FOUNDATION, ServingSpec(2048, "template"))
    assert version.base_model_version == BASE


async def test_an_embedding_model_that_was_tuned_is_one_that_the_embedder_loads(world: World) -> None:
    base = await world.base()
    model = await world.catalogue.ensure_model("projects/p/models/e", ModelKind.EMBEDDING)
    embedding = await world.catalogue.add_version(
        model, artifacts=base.artifacts, serving=ServingSpec(64, dimensions=32), lineage=Lineage(), licence="MIT"
    )
    trained = await world.trained("r")
    files = {"gguf": trained.artifacts["adapter.gguf"]}
    version = await world.catalogue.register_adapter(
        replace(trained, model="projects/p/models/tuned", base_model_version=embedding.name, artifacts=files)
    )
    assert (version.kind, version.serving.dimensions) == (ModelKind.EMBEDDING, 32)


async def test_i7_good_evidence_releases_and_bad_refuses_with_the_reason(world: World) -> None:
    version = await world.version()
    await world.put_policy(POLICY)
    decision = await world.measure(version, -0.1)
    assert decision.outcome is Outcome.REFUSED
    (refused,) = world.said(events.ReleaseRefused)
    assert refused.reasons[0].startswith("primary:rouge_l")
    decision = await world.measure(version, 0.1)
    assert decision.outcome is Outcome.ALLOWED
    (released,) = world.said(events.ModelReleased)
    assert (released.release_number, released.model_version) == (1, version.name)
    assert released.manifest.sha256 == version.manifest.sha256
    assert set(world.outbox.cycles[-2:]) == {"cycle"}


@pytest.mark.parametrize(
    ("harm", "lost"),
    [
        ("removed", f"adapter.gguf of {MODEL}/versions/1"),
        ("flipped", f"adapter.gguf of {MODEL}/versions/1"),
        ("cut", f"adapter.gguf of {MODEL}/versions/1"),
        ("unsigned", f"model.sig of {MODEL}/versions/1"),
        ("base", f"manifest.json of {BASE}"),
    ],
)
async def test_f10_a_version_whose_files_are_lost_is_not_released_before_they_are_restored(
    world: World, harm: str, lost: str
) -> None:
    await world.put_policy(POLICY)
    version, base = await world.version(), await world.catalogue.version(BASE)
    adapter, proof, whole = version.artifacts["adapter.gguf"], version.proof, dict(world.files.files)
    assert proof is not None
    match harm:
        case "removed":
            await world.files.discard("p", adapter)
        case "flipped":
            world.files.damage(adapter)
        case "cut":
            world.files.files["p", adapter.sha256] = b""
        case "unsigned":
            await world.files.discard("p", proof)
        case _:
            await world.files.discard("p", base.manifest)
    decision = await world.measure(version, 0.1)
    assert decision.outcome is Outcome.REFUSED
    (refused,) = world.said(events.ReleaseRefused)
    assert list(refused.reasons) == [
        f"files: the artifact store lacks {lost}, or holds other bytes there; restore them from a copy,"
        " then release the version by hand"
    ]
    with pytest.raises(PreconditionFailed, match=f"lacks {lost}.* restore them") as caught:
        await world.releases.create(MODEL, version.name, ANNA)
    assert caught.value.reason == "ARTIFACTS_MISSING"
    assert world.said(events.ModelReleased) == []
    world.files.files.update(whole)
    assert (await world.releases.create(MODEL, version.name, ANNA)).number == 1


@pytest.mark.parametrize("harm", ["flipped", "cut"])
@pytest.mark.parametrize("whose", ["version", "base"])
async def test_f10_one_flipped_bit_in_a_large_file_refuses_the_release_until_it_is_restored(
    world: World, harm: str, whose: str
) -> None:
    await world.put_policy(POLICY)
    large = await world.files.put_bytes("p", bytes((1 << 20) + 1))
    whole = world.files.files["p", large.sha256]
    small = (await world.trained("r")).artifacts
    model = await world.catalogue.ensure_model("projects/p/models/base", ModelKind.FOUNDATION)
    of_base, of_version = ({"gguf": large}, small) if whose == "base" else ({}, {"adapter.gguf": large})
    await world.catalogue.add_version(
        model, artifacts=of_base, serving=ServingSpec(2048, "template"), lineage=Lineage(), licence="MIT"
    )
    version = await world.catalogue.register_adapter(replace(await world.trained("r"), artifacts=of_version))
    world.files.files["p", large.sha256] = bytes([1]) + whole[1:] if harm == "flipped" else whole[:-1]
    role = f"adapter.gguf of {version.name}" if whose == "version" else f"gguf of {BASE}"
    assert (await world.measure(version, 0.1)).outcome is Outcome.REFUSED
    with pytest.raises(PreconditionFailed, match=f"lacks {role}, or holds other bytes") as caught:
        await world.releases.create(MODEL, version.name, ANNA)
    assert caught.value.reason == "ARTIFACTS_MISSING"
    judgement = await world.gate.check(version.name, ANNA)
    assert judgement is not None
    assert judgement.lost == (role,)
    world.files.files["p", large.sha256] = whole
    assert (await world.releases.create(MODEL, version.name, ANNA)).model_version == version.name


async def test_a_suite_that_no_policy_asks_for_decides_nothing(world: World) -> None:
    version = await world.version()
    assert await world.measure(version, 0.1) is None
    await world.put_policy(POLICY)
    assert await world.measure(version, 0.1, suite="projects/p/evaluationSuites/other") is None
    assert world.said(events.ModelReleased) == []


async def test_i3_a_second_release_takes_the_place_of_the_first(world: World) -> None:
    first, second = await world.version("r1"), await world.version("r2")
    await world.put_policy(POLICY)
    await world.measure(first, 0.1)
    stale = await world.measure(second, 0.1)
    assert stale.outcome is Outcome.REFUSED  # It was compared with the foundation model, but the first serves now.
    await world.measure(second, 0.1, baseline=first.name)
    states = {name: row.value.state for name, row in world.ports.releases.rows.items()}  # type: ignore[attr-defined]
    assert states == {f"{MODEL}/releases/1": ReleaseState.SUPERSEDED, f"{MODEL}/releases/2": ReleaseState.ACTIVE}
    assert [event.release_number for event in world.said(events.ModelReleased)] == [1, 2]


async def test_i7_a_release_by_hand_needs_a_decision_for_these_files_against_what_serves(world: World) -> None:
    version = await world.version()
    with pytest.raises(PreconditionFailed) as caught:
        await world.releases.create(MODEL, version.name, ANNA)
    assert caught.value.reason == "RELEASE_NOT_ALLOWED"
    await world.put_policy(POLICY)
    await world.measure(version, 0.1)
    with pytest.raises(PreconditionFailed, match="already"):
        await world.releases.create(MODEL, version.name, ANNA)
    await world.releases.revoke(f"{MODEL}/releases/1", "test", ANNA)
    assert (await world.releases.create(MODEL, version.name, ANNA)).number == 2


async def test_revoking_restores_the_newest_that_was_not_taken_back(world: World) -> None:
    versions = [await world.version(f"r{n}") for n in range(3)]
    await world.put_policy(POLICY)
    baseline = BASE
    for version in versions:
        await world.measure(version, 0.1, baseline=baseline)
        baseline = version.name
    await world.releases.revoke(f"{MODEL}/releases/3", "worse", ANNA)
    await world.releases.revoke(f"{MODEL}/releases/2", "worse too", ANNA)
    revoked = world.said(events.ReleaseRevoked)
    assert [event.restored_release for event in revoked] == [f"{MODEL}/releases/2", f"{MODEL}/releases/1"]
    model = await world.ports.models.get(MODEL)
    assert model is not None
    assert model.value.active_release == f"{MODEL}/releases/1"
    assert model.value.version_of("champion") == versions[0].name
    with pytest.raises(IllegalTransition):
        await world.releases.revoke(f"{MODEL}/releases/3", "again", ANNA)
    await world.releases.revoke(f"{MODEL}/releases/1", "all bad", ANNA)
    model = await world.ports.models.get(MODEL)
    assert model is not None
    assert (model.value.active_release, model.value.version_of("champion")) == ("", None)


async def test_roll_outs_move_the_champion_and_failed_ones_restore_it(world: World) -> None:
    first, second = await world.version("r1"), await world.version("r2")
    await world.put_policy(POLICY)
    await world.measure(first, 0.1)
    await world.releases.promoted(f"{MODEL}/releases/1", first.name)
    assert (await world.catalogue.version(f"{MODEL}@champion")).name == first.name
    await world.measure(second, 0.1, baseline=first.name)
    await world.releases.rolled_back(f"{MODEL}/releases/2", "errors")
    await world.releases.rolled_back(f"{MODEL}/releases/2", "errors")  # A repeat changes nothing.
    await world.releases.promoted(f"{MODEL}/releases/2", second.name)  # Late news about a release that is over.
    assert (await world.catalogue.version(f"{MODEL}@champion")).name == first.name
    assert len(world.said(events.ReleaseRevoked)) == 1


async def aliases(world: World) -> dict[str, str]:
    model = await world.ports.models.get(MODEL)
    assert model is not None
    return dict(model.value.aliases)


async def test_what_is_rolled_out_against_the_champion_is_its_challenger_until_that_ends(world: World) -> None:
    versions = [await world.version(f"r{n}") for n in range(4)]
    await world.put_policy(POLICY)
    await world.measure(versions[0], 0.1)
    assert await aliases(world) == {}, "there is no champion yet"
    await world.releases.promoted(f"{MODEL}/releases/1", versions[0].name)
    await world.measure(versions[1], 0.1, baseline=versions[0].name)
    assert await aliases(world) == {"champion": "1", "challenger": "2"}
    assert (await world.catalogue.version(f"{MODEL}@challenger")).name == versions[1].name
    await world.releases.promoted(f"{MODEL}/releases/2", versions[1].name)
    assert await aliases(world) == {"champion": "2"}
    await world.measure(versions[2], 0.1, baseline=versions[1].name)
    await world.measure(versions[3], 0.1, baseline=versions[2].name)
    assert await aliases(world) == {"champion": "2", "challenger": "4"}, "a newer release took the third one's place"
    await world.releases.rolled_back(f"{MODEL}/releases/3", "another takes its place")
    await world.releases.promoted(f"{MODEL}/releases/3", versions[2].name)
    assert await aliases(world) == {"champion": "2", "challenger": "4"}, "late news of a release that is over"
    moved = [e for e in await world.ports.history.all() if e.kind is HistoryKind.ALIAS_MOVED]
    assert [(e.details["alias"], e.resource[-1]) for e in moved] == [
        ("champion", "1"), ("challenger", "2"), ("champion", "2"), ("challenger", "3"), ("challenger", "4"),
    ]  # fmt: skip
    assert (await Ledger(world.ports).verify(MODEL)).problems == []


@pytest.mark.parametrize("ending", ["revoked", "rolled back"])
async def test_a_challenger_that_is_taken_back_is_none_any_more(world: World, ending: str) -> None:
    first, second = await world.version("r1"), await world.version("r2")
    await world.put_policy(POLICY)
    await world.measure(first, 0.1)
    await world.releases.promoted(f"{MODEL}/releases/1", first.name)
    await world.measure(second, 0.1, baseline=first.name)
    if ending == "revoked":
        await world.releases.revoke(f"{MODEL}/releases/2", "worse", ANNA)
    else:
        await world.releases.rolled_back(f"{MODEL}/releases/2", "errors")
    assert await aliases(world) == {"champion": "1"}
    with pytest.raises(NotFound):
        await world.catalogue.version(f"{MODEL}@challenger")


async def test_a_model_has_one_policy_and_its_etag_guards_it(world: World) -> None:
    stored = await world.put_policy(POLICY)
    await world.put_policy(replace(POLICY, min_gain=0.1), etag=stored.etag, allow_missing=False)
    with pytest.raises(EtagMismatch):
        await world.put_policy(POLICY, etag=stored.etag, allow_missing=False)
    other = replace(POLICY, name="projects/p/releasePolicies/other")
    with pytest.raises(NotFound):
        await world.put_policy(other, etag="", allow_missing=False)
    with pytest.raises(PreconditionFailed, match="change that one"):
        await world.put_policy(other, etag="", allow_missing=True)


async def test_people_cannot_set_the_champion(world: World) -> None:
    version = await world.version()
    for alias in ("champion", "challenger"):
        with pytest.raises(InvalidInput, match=f"{alias} follows roll-outs") as caught:
            await world.catalogue.set_alias(MODEL, alias, version.name, ANNA)
        assert caught.value.reason == "ALIAS_RESERVED"
    with pytest.raises(InvalidInput, match="not a version of"):
        await world.catalogue.set_alias("projects/p/models/base", "stable", version.name, ANNA)
    model = await world.catalogue.set_alias(MODEL, "stable", version.name, ANNA)
    assert model.version_of("stable") == version.name
    with pytest.raises(NotFound):
        await world.catalogue.version(f"{MODEL}@nobody")


async def test_an_import_becomes_a_version_and_a_repeat_finds_it(world: World) -> None:
    for number in (1, 2):
        command = CreateModelImport("p", f"i{number}", "projects/p/models/base", ModelKind.FOUNDATION, package="x")
        work = await world.imports.create(command)
        assert ("model-import", work.name) in world.work.queued
        await world.imports.run(work.name, FakeLease())
        done = await world.ports.imports.get(work.name)
        assert done is not None
        assert (done.value.state, done.value.model_version) == (MakingState.SUCCEEDED, BASE)
    assert not world.importer.folder.exists()
    version = await world.catalogue.version(BASE)
    assert (version.licence, version.lineage.origin) == ("MIT", "somewhere")


async def test_a_failed_import_says_why(world: World) -> None:
    world.importer.failure = InvalidInput("no", reason="PICKLE_REFUSED")
    command = CreateModelImport("p", "i", "projects/p/models/base", ModelKind.FOUNDATION, path="/x")
    work = await world.imports.create(command)
    with pytest.raises(InvalidInput):
        await world.imports.run(work.name, FakeLease())
    await world.imports.give_up(work.name, "PICKLE_REFUSED", "no")
    failed = await world.ports.imports.get(work.name)
    assert failed is not None
    assert (failed.value.state, failed.value.error_reason) == (MakingState.FAILED, "PICKLE_REFUSED")


async def test_a_turn_of_the_loop_is_drawn_from_its_events(world: World) -> None:
    cycles = Cycles(world.ports)
    step = CycleStep("mainspring.x.v1", "projects/p/x/1", "e", FakeClock().now())
    await cycles.record("p", "c", step)
    await cycles.record("p", "c", replace(step, event_id="f"))
    await cycles.record("p", "", step)
    (found,) = world.ports.cycles.rows.values()  # type: ignore[attr-defined]
    assert [drawn.event_id for drawn in found.value.steps] == ["e", "f"]


def test_a_model_is_for_one_thing() -> None:
    model = Model("projects/p/models/m", ModelKind.EMBEDDING, FakeClock().now())
    model.require_kind(ModelKind.EMBEDDING)
    with pytest.raises(PreconditionFailed):
        model.require_kind(ModelKind.ADAPTER)


async def test_an_answer_leads_back_to_the_run_and_the_data(world: World) -> None:
    await world.put_policy(POLICY)
    await world.base()
    trained = await world.trained("r1")
    data, recipe = "projects/p/datasets/d/versions/1", "projects/p/tuningRecipes/t"
    lineage = replace(trained.lineage, dataset_version=data)
    version = await world.catalogue.register_adapter(replace(trained, lineage=lineage, tuning_recipe=recipe))
    measured = replace(evidence(version, 0.1, BASE), dataset_version=data)
    await world.gate.apply(version.name, SUITE, measured, "cycle")
    lineages = Lineages(world.ports, world.catalogue)
    await lineages.answered("p", "projects/p/answers/a", version.name, f"{MODEL}/releases/1")

    found = {node.name for node in (await lineages.walk("projects/p/answers/a", Direction.UPSTREAM, 0)).nodes}
    run, decision = lineage.training_run, f"{MODEL}/gateDecisions/1"
    made_from = {version.name, run, data, recipe, BASE}
    assert found == made_from | {"projects/p/answers/a", f"{MODEL}/releases/1", decision, measured.evaluation_run}
    down = {node.name for node in (await lineages.walk(data, Direction.DOWNSTREAM, 0)).nodes}
    assert down == {data, run, version.name, measured.evaluation_run, decision, f"{MODEL}/releases/1"}

    await world.catalogue.set_alias(MODEL, "mine", version.name, ANNA)
    walk = await lineages.walk(f"{MODEL}@mine", Direction.UPSTREAM, 0)
    assert {node.name for node in walk.nodes} == made_from


async def test_lineage_of_what_nobody_told_of_is_not_found(world: World) -> None:
    lineages = Lineages(world.ports, world.catalogue)
    with pytest.raises(NotFound) as caught:
        await lineages.walk("projects/p/answers/a", Direction.UPSTREAM, 0)
    assert caught.value.reason == "LINEAGE_NOT_FOUND"
    with pytest.raises(InvalidInput) as refused:
        await lineages.answered("p", "projects/p/answers/a", "projects/q/models/m/versions/1", "")
    assert refused.value.reason == "PROJECTS_MIXED"
