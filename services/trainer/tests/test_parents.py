"""Runs that begin with a version that somebody names, over fakes and as callers meet it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mainspring.events.v1.training_events_pb2 import TrainingRunSucceeded
from mainspring.registry.v1 import model_pb2
from mainspring.training.v1 import recipe_pb2
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_testkit.events import EventTap
from mainspring_trainer.application.ports import ModelVersion
from mainspring_trainer.domain.recipes import Adaptation, LoraConfig, Method, StartFrom
from mainspring_trainer.domain.runs import TrainingRun

from .replicas import BASE, Run, Trainer
from .replicas import RECIPE as STORED
from .world import RECIPE, VERSION, World

OTHER = "projects/p/models/other/versions/7"
CONFIG, WEIGHTS = "adapter/adapter_config.json", "adapter/adapter_model.safetensors"


async def adapter(world: World, **config: Any) -> ModelVersion:
    """A version of another model; nothing is known of what it learned."""
    shape = {"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM", **config}
    files = {CONFIG: await world.put(json.dumps(shape)), WEIGHTS: await world.put("its weights")}
    made = ModelVersion(OTHER, "ADAPTER", RECIPE.base_model_version, "", files)
    world.models.known[OTHER] = made
    return made


async def created(world: World, **changes: Any) -> TrainingRun:
    await world.base()
    await world.dataset()
    await world.recipe(**{"lora": LoraConfig(8, 16.0), **changes})
    return await world.runs.create("p", RECIPE.name, VERSION, begin_with=OTHER)


async def test_a_run_begins_with_a_version_that_is_named_and_learns_all_rows(world: World) -> None:
    version = await adapter(world)
    await world.champion(rank=8)
    run = await created(world, start_from=StartFrom.CHAMPION)
    assert run.parent_model_version == OTHER
    world.result()
    await world.training.run(run.name, world.lease)
    (spec,) = world.children.specs
    folder = spec["parent"]["adapter"]
    assert (world.files.folder / folder / "adapter_model.safetensors").read_bytes() == b"its weights"
    assert spec["parent"]["known"] == []
    (event,) = world.said(TrainingRunSucceeded)
    assert event.parent_model_version == version.name
    # The recipe is as it was: what published versions start goes by it.
    turn = await world.runs.dataset_published(RECIPE.dataset, await world.dataset(), "cycle")
    assert [item.begin_with for item in turn] == [""]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: None, "does not exist"),
        (lambda v: replace(v, files={}, kind="FOUNDATION"), "is of the kind FOUNDATION"),
        (lambda v: replace(v, files={}, quantized_from="the/source"), "was compressed from the/source"),
        (
            lambda v: replace(v, base_model_version=f"{RECIPE.base_model_version}2"),
            "versions/12, and that recipe adapts",
        ),
    ],
)
async def test_a_version_of_another_kind_or_base_is_refused_at_once(
    world: World, change: Callable[[ModelVersion], ModelVersion | None], words: str
) -> None:
    changed = change(await adapter(world))
    world.models.known = {OTHER: changed} if changed is not None else {}
    with pytest.raises(PreconditionFailed, match=words) as caught:
        await created(world)
    assert caught.value.reason == "PARENT_UNUSABLE"
    assert world.work.queued == {}


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        ({"r": 4}, {}, "set lora.rank=4, lora.alpha=16, lora.rank_stabilized=false, lora.weight_decomposed=false"),
        ({"lora_alpha": 8}, {}, "lora.alpha=8"),
        ({"use_rslora": True}, {}, "lora.rank_stabilized=true"),
        ({"task_type": "SEQ_CLS"}, {}, "gives scores or words"),
        ({}, {"method": Method.REWARD_MODEL}, "gives scores or words"),
        ({}, {"adaptation": Adaptation.FULL}, "learns all weights"),
    ],
)
async def test_an_adapter_of_another_shape_is_refused_with_what_to_set(
    world: World, config: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    await adapter(world, **config)
    with pytest.raises(PreconditionFailed, match=words) as caught:
        await created(world, **changes)
    assert caught.value.reason == "PARENT_UNUSABLE"


async def test_a3_no_run_begins_with_a_version_of_another_project(world: World) -> None:
    await world.recipe()
    with pytest.raises(InvalidInput) as caught:
        await world.runs.create("p", RECIPE.name, VERSION, begin_with=OTHER.replace("/p/", "/q/"))
    assert caught.value.reason == "PROJECT_DIFFERS"


async def test_a_version_that_is_gone_when_the_run_is_taken_ends_it(world: World) -> None:
    await adapter(world)
    run = await created(world)
    world.models.known.pop(OTHER)
    with pytest.raises(PreconditionFailed, match="does not exist"):
        await world.training.run(run.name, world.lease)


async def test_callers_have_a_run_go_on_from_any_adapter_and_its_lineage_says_so(
    trainer: Trainer, event_tap: EventTap
) -> None:
    script = trainer.python.read_text()
    tell = 'pathlib.Path(__file__).with_name("begun-with").write_text(spec["parent"]["adapter"])\n'
    trainer.python.write_text(script.replace("done = int(", f"{tell}done = int(", 1))
    await trainer.start(1)
    await trainer.recipe(steps=3)
    version = (await trainer.dataset()).dataset_version
    known = model_pb2.ModelVersion(name=OTHER, kind=model_pb2.MODEL_KIND_ADAPTER, base_model_version=BASE)
    shape = json.dumps({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}).encode()
    for role, data in ((CONFIG, shape), (WEIGHTS, b"weights")):
        known.artifacts[role].CopyFrom(artifact_to_proto(await trainer.store.put_bytes("p", data)))
    trainer.others.models[OTHER] = known
    wish = {"parent": "projects/p", "tuning_recipe": STORED, "dataset_version": version}
    asked = (await trainer.call("CreateTrainingRun", **wish, parent_model_version=OTHER)).training_run
    assert asked.parent_model_version == OTHER
    ended = (await trainer.watch(asked.name))[-1].training_run
    assert (ended.state, ended.parent_model_version) == (Run.STATE_SUCCEEDED, OTHER)
    folder = trainer.folder / (trainer.folder / "begun-with").read_text()
    found = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert found == known.artifacts[WEIGHTS].sha256
    (event,) = await event_tap.wait_for(TrainingRunSucceeded)
    assert event.parent_model_version == OTHER
    await trainer.recipe(steps=3, lora=recipe_pb2.LoraConfig(rank=8))
    with pytest.raises(PreconditionFailed, match=r"lora\.rank=4") as caught:
        await trainer.call("CreateTrainingRun", **wish, parent_model_version=OTHER)
    assert caught.value.reason == "PARENT_UNUSABLE"
