"""Use cases over fakes: what is stored, what is announced, what a process is asked to do."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from mainspring.events.v1 import training_events_pb2 as events
from mainspring_svckit.errors import (
    EtagMismatch,
    IllegalTransition,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.fakes import (
    FakeLease,
)
from mainspring_trainer.application.ports import ModelVersion
from mainspring_trainer.application.recipes import Recipes
from mainspring_trainer.application.runs import TIDY_KIND, WORK_KIND
from mainspring_trainer.domain.recipes import (
    Adaptation,
    DistillationConfig,
    LoraConfig,
    Method,
    Optimization,
    StartFrom,
)
from mainspring_trainer.domain.runs import RunState

from .world import CHAMPION, RECIPE, ROLES, VERSION, World


async def test_a_stale_recipe_is_refused(world: World) -> None:
    recipes = Recipes(world.ports)
    with pytest.raises(NotFound):
        await recipes.put(RECIPE, etag="", allow_missing=False)
    stored = await recipes.put(RECIPE, etag="", allow_missing=True)
    await recipes.put(replace(RECIPE, replay_ratio=2), etag=stored.etag, allow_missing=False)
    with pytest.raises(EtagMismatch):
        await recipes.put(RECIPE, etag=stored.etag, allow_missing=False)


async def test_a_published_version_starts_one_run_for_each_recipe_of_its_dataset(world: World) -> None:
    await world.recipe()
    await world.recipe(name="projects/p/tuningRecipes/u", model="projects/p/models/n")
    await world.recipe(name="projects/p/tuningRecipes/other", dataset="projects/p/datasets/other")
    version = await world.dataset()
    first = await world.runs.dataset_published(RECIPE.dataset, version, "cycle")
    assert {run.recipe.name for run in first} == {"projects/p/tuningRecipes/t", "projects/p/tuningRecipes/u"}
    assert {run.cycle for run in first} == {"cycle"}
    assert await world.runs.dataset_published(RECIPE.dataset, version, "cycle") == []
    assert len(await world.runs.dataset_published(RECIPE.dataset, version, "another")) == 2
    assert len([key for kind, key in world.work.queued if kind == WORK_KIND]) == 4


async def test_a_run_by_hand_learns_from_its_recipes_dataset_only(world: World) -> None:
    await world.recipe()
    run = await world.runs.create("p", RECIPE.name, VERSION)
    assert (run.state, run.cycle, run.dataset) == (RunState.PENDING, "id-0", None)
    for recipe, version, reason in (
        (RECIPE.name, "projects/p/datasets/other/versions/1", "DATASET_DIFFERS"),
        ("projects/q/tuningRecipes/t", VERSION, "PROJECT_DIFFERS"),
    ):
        with pytest.raises(InvalidInput) as caught:
            await world.runs.create("p", recipe, version)
        assert caught.value.reason == reason
    with pytest.raises(NotFound):
        await world.runs.create("p", "projects/p/tuningRecipes/none", VERSION)


async def test_a_run_is_done_and_announced(world: World) -> None:
    run = await world.asked(lora=LoraConfig(rank=8, alpha=16), optimization=Optimization(seed=7))
    world.told("phase", phase="training")
    world.told("plan", steps=3, precision="bf16")
    world.metric(1)
    world.children.lines.append(world.checkpoint(1))
    world.metric(2)
    world.result()
    await world.training.run(run.name, world.lease)
    done = await world.run(run.name)
    assert (done.state, done.attempt, done.precision) == (RunState.SUCCEEDED, 1, "bf16")
    assert done.result is not None
    assert set(done.result.artifacts) == set(ROLES)
    assert [metric.step for metric in await world.runs.metrics_after(run.name, -1)] == [1, 2]
    assert [metric.step for metric in await world.runs.metrics_after(run.name, 1)] == [2]
    (event,) = world.said(events.TrainingRunSucceeded)
    assert (event.dataset_root_sha256, event.recipe_sha256) == ("root", run.recipe.sha256)
    assert world.outbox.cycles == ["cycle"]
    (spec,) = world.children.specs
    assert (spec["lora"]["rank"], spec["optimization"]["seed"], spec["threads"]) == (8, 7, 2)
    assert (spec["precision"], spec["parent"], spec["resume_from"]) == ("auto", None, None)
    assert {path.name for path in Path(spec["base_model"]).iterdir()} == {"config.json", "model.safetensors"}
    assert [shard["rows"] for shard in spec["train"]] == [5]
    await world.runs.tidy(run.name, FakeLease())
    assert (await world.run(run.name)).checkpoints == ()
    assert hashlib.sha256(b"checkpoint 1").hexdigest() not in {digest for _, digest in world.files.files}


async def test_a_teacher_is_looked_up_with_the_base_of_its_adapter(world: World) -> None:
    teacher = await world.champion()
    world.models.known[teacher.name] = teacher
    taught = DistillationConfig(teacher_model_version=teacher.name)
    run = await world.asked(method=Method.DISTILLATION, distillation=taught)
    world.result()
    await world.training.run(run.name, world.lease)
    (spec,) = world.children.specs
    assert "teacher_model_version" not in spec["distillation"]
    assert {path.name for path in Path(spec["helper"]["base_model"]).iterdir()} == {"config.json", "model.safetensors"}
    adapter = {path.name for path in Path(spec["helper"]["adapter"]).iterdir()}
    assert adapter == {"adapter_config.json", "adapter_model.safetensors"}


async def test_a_teacher_that_does_not_exist_ends_the_run(world: World) -> None:
    taught = DistillationConfig(teacher_model_version="projects/p/models/none/versions/1")
    run = await world.asked(method=Method.DISTILLATION, distillation=taught)
    with pytest.raises(PreconditionFailed) as caught:
        await world.training.run(run.name, world.lease)
    assert caught.value.reason == "HELPER_MODEL_UNUSABLE"


async def test_f2_a_second_try_goes_on_from_the_newest_whole_checkpoint(world: World) -> None:
    run = await world.asked()
    world.told("plan", steps=9, precision="fp32")
    for step in (1, 2, 3):
        world.children.lines.append(world.checkpoint(step))
    world.children.lines.append(Unavailable("WORKER_CRASHED", "died"))
    with pytest.raises(Unavailable):
        await world.training.run(run.name, world.lease)
    waiting = await world.run(run.name)
    assert waiting.state is RunState.PENDING
    stored = {digest for _, digest in world.files.files}
    digests = [hashlib.sha256(f"checkpoint {step}".encode()).hexdigest() for step in (1, 2, 3)]
    assert [digest in stored for digest in digests] == [False, True, True]
    world.children.lines = [Unavailable("WORKER_CRASHED", "died again")]
    for damaged, expected in (("", digests[2]), (digests[2], digests[1]), (digests[1], None)):
        world.files.damage(ArtifactRef(damaged, 0))
        with pytest.raises(Unavailable):
            await world.training.run(run.name, world.lease)
        spec = world.children.specs[-1]
        assert (Path(spec["resume_from"]).name if spec["resume_from"] else None) == expected
        assert spec["precision"] == "fp32"
    assert (await world.run(run.name)).attempt == 4


async def test_f2_a_trainer_that_stops_keeps_a_last_checkpoint(world: World) -> None:
    run = await world.asked()
    world.told("plan", steps=9, precision="fp32")
    world.told("wait")
    world.children.on_stop.append(world.checkpoint(4))
    working = await world.working(run)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    left = await world.run(run.name)
    assert (left.state, [c.step for c in left.checkpoints]) == (RunState.PENDING, [4])


async def test_f13_a_trainer_that_lost_its_lease_asks_for_no_checkpoint(world: World) -> None:
    run = await world.asked()
    world.told("plan", steps=9, precision="fp32")
    world.told("wait")
    working = await world.working(run)
    world.lease.lost = True
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert not world.children.children[0].stopped.is_set()
    assert (await world.run(run.name)).state is RunState.RUNNING


async def test_what_a_run_needs_and_does_not_find_ends_it_with_its_reason(world: World) -> None:
    await world.recipe()
    run = await world.runs.create("p", RECIPE.name, VERSION)

    async def reason() -> str:
        with pytest.raises(PreconditionFailed) as caught:
            await world.training.run(run.name, world.lease)
        return caught.value.reason

    assert await reason() == "DATASET_UNKNOWN"
    await world.dataset()
    assert await reason() == "BASE_MODEL_UNKNOWN"
    world.models.known[RECIPE.base_model_version] = ModelVersion(RECIPE.base_model_version, "EMBEDDING", "", "", {})
    assert await reason() == "BASE_MODEL_UNUSABLE"
    world.models.known[RECIPE.base_model_version] = ModelVersion(
        RECIPE.base_model_version, "FOUNDATION", "", "", {"base.gguf": await world.put("no Hugging Face files")}
    )
    assert await reason() == "BASE_MODEL_UNUSABLE"
    await world.base()
    await world.dataset(train_rows=0)
    assert await reason() == "NO_TRAINING_ROWS"
    other = await world.runs.create("p", RECIPE.name, VERSION)
    await world.dataset(root="another")
    run = other
    assert await reason() == "DATASET_MISMATCH"
    assert world.children.specs == []


async def test_an_embedding_models_recipe_needs_an_embedding_model_with_its_weights(world: World) -> None:
    await world.recipe(method=Method.EMBEDDING, adaptation=Adaptation.FULL)
    await world.dataset()
    base, config = RECIPE.base_model_version, await world.put("{}")
    for kind, roles in (
        ("FOUNDATION", ("hf/config.json", "hf/model.safetensors")),
        ("EMBEDDING", ("hf/config.json", "gguf")),
    ):
        run = await world.runs.create("p", RECIPE.name, VERSION)
        world.models.known[base] = ModelVersion(base, kind, "", "", dict.fromkeys(roles, config))
        with pytest.raises(PreconditionFailed, match="is no embedding model with Hugging Face files") as caught:
            await world.training.run(run.name, world.lease)
        assert caught.value.reason == "BASE_MODEL_UNUSABLE"


async def test_a_catalogue_that_is_away_is_asked_again_later(world: World) -> None:
    run = await world.asked()
    world.models.away = True
    with pytest.raises(Unavailable):
        await world.training.run(run.name, world.lease)
    assert (await world.run(run.name)).state is RunState.PENDING


async def test_a_run_begins_with_a_champion_that_fits(world: World) -> None:
    champion = await world.champion()
    run = await world.asked(start_from=StartFrom.CHAMPION, replay_ratio=0.5)
    world.result()
    await world.training.run(run.name, world.lease)
    (spec,) = world.children.specs
    assert {path.name for path in Path(spec["parent"]["adapter"]).iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert [shard["rows"] for shard in spec["parent"]["known"]] == [5, 2]
    assert spec["replay_ratio"] == 0.5
    (event,) = world.said(events.TrainingRunSucceeded)
    assert event.parent_model_version == champion.name


@pytest.mark.parametrize("misfit", ["none", "rank", "base", "lineage"])
async def test_without_a_champion_that_fits_a_run_begins_with_the_base(world: World, misfit: str) -> None:
    run = await world.asked(start_from=StartFrom.CHAMPION)
    if misfit == "rank":
        await world.champion(rank=4)
    elif misfit == "base":
        await world.champion(base="projects/p/models/base/versions/2")
    elif misfit == "lineage":
        world.models.known[CHAMPION] = replace(await world.champion(), dataset_version="")
    world.result()
    await world.training.run(run.name, world.lease)
    assert world.children.specs[0]["parent"] is None


async def test_a_run_goes_on_from_what_a_compressed_champion_was_made_of(world: World) -> None:
    source = await world.champion()
    world.models.known[source.name] = source
    compressed = ModelVersion(
        "projects/p/models/m/versions/4", "MERGED", source.base_model_version, source.dataset_version, {}, source.name
    )
    world.models.known[CHAMPION] = compressed
    run = await world.asked(start_from=StartFrom.CHAMPION)
    world.result()
    await world.training.run(run.name, world.lease)
    (event,) = world.said(events.TrainingRunSucceeded)
    assert event.parent_model_version == source.name


async def test_a_champion_that_changes_does_not_change_a_run_that_has_begun(world: World) -> None:
    run = await world.asked(start_from=StartFrom.CHAMPION)
    world.children.lines.append(Unavailable("WORKER_CRASHED", "died"))
    with pytest.raises(Unavailable):
        await world.training.run(run.name, world.lease)
    await world.champion()
    with pytest.raises(Unavailable):
        await world.training.run(run.name, world.lease)
    assert [spec["parent"] for spec in world.children.specs] == [None, None]


async def test_a_cancelled_run_is_announced_once_and_not_given_up(world: World) -> None:
    run = await world.asked()
    cancelled = await world.runs.cancel(run.name)
    assert cancelled.state is RunState.CANCELLED
    assert (WORK_KIND, run.name) not in world.work.queued
    assert (TIDY_KIND, run.name) in world.work.queued
    with pytest.raises(IllegalTransition):
        await world.runs.cancel(run.name)
    await world.runs.give_up(run.name, "OUT_OF_MEMORY", "too late")
    assert (await world.run(run.name)).state is RunState.CANCELLED
    assert len(world.outbox.emitted) == 1


async def test_a_run_that_is_given_up_says_why(world: World) -> None:
    run = await world.asked()
    await world.runs.give_up(run.name, "DIVERGED", "lower the rate")
    (event,) = world.said(events.TrainingRunFailed)
    assert (event.reason, event.message) == ("DIVERGED", "lower the rate")


@pytest.mark.parametrize("name", ["../file", "/etc/passwd"])
async def test_b6_a_process_cannot_have_other_files_stored(world: World, name: str) -> None:
    run = await world.asked()
    world.result(**{"adapter.gguf": name})
    with pytest.raises(PreconditionFailed) as caught:
        await world.training.run(run.name, world.lease)
    assert caught.value.reason == "WORKER_UNKNOWN"
    assert world.said(events.TrainingRunSucceeded) == []


async def test_a_process_of_another_release_is_refused(world: World) -> None:
    run = await world.asked()
    world.told("song")
    with pytest.raises(PreconditionFailed) as caught:
        await world.training.run(run.name, world.lease)
    assert "install the worker of the trainer's release" in caught.value.message


async def test_a_process_that_ends_without_a_result_is_tried_again(world: World) -> None:
    run = await world.asked()
    world.told("plan", steps=3, precision="fp32")
    with pytest.raises(Unavailable):
        await world.training.run(run.name, world.lease)
    assert (await world.run(run.name)).state is RunState.PENDING
