"""Use cases over fakes: what is stored, what is announced, what a process is asked to do."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mainspring.events.v1 import training_events_pb2 as events
from mainspring_svckit.errors import (
    EtagMismatch,
    IllegalTransition,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    Unavailable,
)
from mainspring_svckit.names import project_name_of
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.fakes import (
    FakeClock,
    FakeLease,
    FakeNotifier,
    FakeOutbox,
    FakeRepository,
    FakeTransactions,
    FakeWork,
)
from mainspring_testkit.waiting import eventually
from mainspring_trainer.adapters.announcements import OutboxAnnouncements
from mainspring_trainer.adapters.optuna_search import OptunaSearch
from mainspring_trainer.application.comparing import Comparing
from mainspring_trainer.application.estimating import Estimating
from mainspring_trainer.application.grouping import grouped
from mainspring_trainer.application.inputs import Compute
from mainspring_trainer.application.mirroring import Mirroring
from mainspring_trainer.application.policy import Policy
from mainspring_trainer.application.ports import ModelVersion, Ports, Told
from mainspring_trainer.application.recipes import Recipes
from mainspring_trainer.application.runs import TIDY_KIND, WORK_KIND, Runs
from mainspring_trainer.application.training import Training
from mainspring_trainer.domain.recipes import (
    DistillationConfig,
    LoraConfig,
    Method,
    Optimization,
    StartFrom,
    TuningRecipe,
)
from mainspring_trainer.domain.results import ADAPTER, REPORT
from mainspring_trainer.domain.runs import Dataset, RunState, TrainingMetric, TrainingRun, metric_key
from mainspring_trainer.domain.studies import trial_key
from mainspring_trainer.domain.tracking import Rates

from .fakes import CONSUMED, FakeChildren, FakeDatasets, FakeFiles, FakeModels, FakeTracker, FakeWishes

ROLES = (*ADAPTER, "adapter.gguf", "fidelity_probe.json", REPORT)
VERSION = "projects/p/datasets/d/versions/1"
CHAMPION = "projects/p/models/m@champion"
RECIPE = TuningRecipe(
    name="projects/p/tuningRecipes/t",
    dataset="projects/p/datasets/d",
    base_model_version="projects/p/models/base/versions/1",
    model="projects/p/models/m",
)

METRIC = TrainingMetric("", "", 0, 0.1, 1.0, None, 1e-3, 9.0, datetime(2026, 1, 1, tzinfo=UTC))
POLICY = Policy(open_runs_per_project=3, rates=Rates(10, 0.05, 2.0, 0.4, "EUR"))


def project(value: Any) -> str:
    return project_name_of(value.name)


@dataclass
class World:
    ports: Ports
    files: FakeFiles
    models: FakeModels
    datasets: FakeDatasets
    children: FakeChildren
    work: FakeWork
    outbox: FakeOutbox
    runs: Runs
    training: Training
    lease: FakeLease
    wishes: FakeWishes

    async def recipe(self, **changes: Any) -> TuningRecipe:
        recipe = replace(RECIPE, **changes)
        return (await Recipes(self.ports).put(recipe, etag="", allow_missing=True)).value

    async def dataset(self, name: str = VERSION, train_rows: int = 5, root: str = "root") -> Dataset:
        shards = {
            split: [{"sha256": (await self.put(f"{split} {name}")).sha256, "size_bytes": 1, "rows": rows}]
            for split, rows in (("train", train_rows), ("validation", 2))
        }
        body = {"schema": "mainspring.dataset.v1", "root_sha256": root, "splits": shards}
        self.datasets.known[name] = Dataset(name, await self.put(json.dumps(body)), "root")
        return self.datasets.known[name]

    async def base(self) -> None:
        files = {f"hf/{name}": await self.put(name) for name in ("config.json", "model.safetensors")}
        version = ModelVersion(
            RECIPE.base_model_version, "FOUNDATION", "", "", {**files, "gguf": files["hf/config.json"]}
        )
        self.models.known[version.name] = version

    async def champion(self, rank: int = 16, base: str = RECIPE.base_model_version) -> ModelVersion:
        files = {
            "adapter/adapter_config.json": await self.put(json.dumps({"r": rank, "lora_alpha": 2 * rank})),
            "adapter/adapter_model.safetensors": await self.put("weights"),
        }
        old = "projects/p/datasets/d/versions/0"
        await self.dataset(old)
        self.models.known[CHAMPION] = ModelVersion("projects/p/models/m/versions/3", "ADAPTER", base, old, files)
        return self.models.known[CHAMPION]

    async def working(self, run: TrainingRun) -> asyncio.Future[None]:
        """A trainer in the middle of a run."""
        task = asyncio.ensure_future(self.training.run(run.name, self.lease))

        async def planned() -> bool:
            return (await self.run(run.name)).progress.total > 0

        await eventually(planned)
        return task

    async def put(self, text: str) -> ArtifactRef:
        return await self.files.put_bytes("p", text.encode())

    async def asked(self, **changes: Any) -> TrainingRun:
        """A run that can be done."""
        await self.base()
        await self.recipe(**changes)
        return (await self.runs.dataset_published(RECIPE.dataset, await self.dataset(), "cycle"))[0]

    async def run(self, name: str) -> TrainingRun:
        stored = await self.ports.runs.get(name)
        assert stored is not None
        return stored.value

    def told(self, kind: str, **values: Any) -> None:
        self.children.lines.append({"type": kind, **values})

    def metric(self, step: int) -> None:
        self.told(
            "metric",
            step=step,
            epoch=0.1,
            train_loss=1.0,
            validation_loss=None,
            learning_rate=1e-3,
            tokens_per_second=9.0,
        )

    def checkpoint(self, step: int) -> Told:
        (self.children.output / f"c{step}").write_bytes(f"checkpoint {step}".encode())
        return {"type": "checkpoint", "step": step, "file": f"c{step}"}

    def result(self, **files: str) -> None:
        made = dict.fromkeys(ROLES, "file")
        (self.children.output / "file").write_bytes(b"made")
        self.told(
            "result",
            files={**made, **files},
            best_step=2,
            best_validation_loss=1.0,
            initial_validation_loss=2.0,
            steps=3,
            tokens=400,
            stopped_early=True,
            rows_too_long=1,
        )

    def said(self, kind: Any) -> list[Any]:
        return [message for message in self.outbox.emitted if isinstance(message, kind)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    output, cache = tmp_path / "output", tmp_path / "cache"
    output.mkdir()
    cache.mkdir()
    files, models, datasets, children = FakeFiles(cache), FakeModels(), FakeDatasets(), FakeChildren(output)
    work, outbox, wishes, numbers = FakeWork(), FakeOutbox(), FakeWishes(), iter(range(1000))
    ports = Ports(
        transactions=FakeTransactions(),
        recipes=FakeRepository(parent=project, sort_key=lambda r: r.name),
        runs=FakeRepository(parent=project, sort_key=lambda r: r.name, newest_first=True),
        metrics=FakeRepository(parent=lambda m: m.run, sort_key=lambda m: metric_key(m.step)),
        studies=FakeRepository(parent=project, sort_key=lambda s: s.name, newest_first=True),
        trials=FakeRepository(parent=lambda t: t.study, sort_key=lambda t: trial_key(t.number)),
        mirrored=FakeRepository(parent=project, sort_key=lambda m: m.name),
        search=OptunaSearch(),
        announcements=OutboxAnnouncements(outbox),  # type: ignore[arg-type]  # The fake has what is called.
        models=models,
        datasets=datasets,
        files=files,
        children=children,
        wishes=wishes,
        work=work,
        notifier=FakeNotifier(),
        clock=FakeClock(),
        new_id=lambda: f"id-{next(numbers)}",
    )
    compute = Compute(threads=2, precision="auto", micro_batch_tokens=64, max_validation_rows=10)
    training = Training(ports, compute, POLICY)
    return World(
        ports, files, models, datasets, children, work, outbox, Runs(ports, POLICY), training, FakeLease(), wishes
    )


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


async def test_a_waiting_run_is_paused_at_once_and_goes_on_when_resumed(world: World) -> None:
    run = await world.asked()
    paused = await world.runs.pause(run.name)
    assert (paused.state, world.work.queued.get((WORK_KIND, run.name))) == (RunState.PAUSED, None)
    with pytest.raises(IllegalTransition):
        await world.runs.pause(run.name)
    assert (await world.runs.resume(run.name)).state is RunState.PENDING
    assert (WORK_KIND, run.name) in world.work.queued
    with pytest.raises(IllegalTransition):
        await world.runs.resume(run.name)


async def test_a_running_run_writes_a_checkpoint_before_it_is_paused(world: World) -> None:
    run = await world.asked()
    world.told("plan", steps=9, precision="fp32")
    world.told("wait")
    world.children.on_stop = [world.checkpoint(4)]
    task = await world.working(run)
    wished = await world.runs.pause(run.name)
    assert (wished.state, wished.pause_requested) == (RunState.RUNNING, True)
    world.wishes.paused.set()
    await task
    paused = await world.run(run.name)
    assert (paused.state, paused.pause_requested, world.lease.completed) == (RunState.PAUSED, False, True)
    assert [checkpoint.step for checkpoint in paused.checkpoints] == [4]


async def test_a_run_that_ends_before_it_is_paused_has_ended(world: World) -> None:
    run = await world.asked()
    world.told("plan", steps=9, precision="fp32")
    world.told("wait")
    world.result()
    world.children.on_stop = [world.children.lines.pop()]  # type: ignore[list-item]  # The result.
    task = await world.working(run)
    await world.runs.pause(run.name)
    world.wishes.paused.set()
    await task
    ended = await world.run(run.name)
    assert (ended.state, ended.pause_requested) == (RunState.SUCCEEDED, False)


async def test_a_wish_to_pause_that_its_trainer_did_not_live_to_fulfil_is_fulfilled_by_the_next(world: World) -> None:
    run = await world.asked()
    async with world.lease.transaction():
        await world.ports.runs.put(run.taken(world.ports.clock.now()))
    await world.runs.pause(run.name)
    await world.training.run(run.name, world.lease)
    assert ((await world.run(run.name)).state, world.children.specs) == (RunState.PAUSED, [])


async def test_too_many_open_runs_are_refused(world: World) -> None:
    await world.base()
    await world.recipe()
    version = (await world.dataset()).name
    for _ in range(POLICY.open_runs_per_project):
        await world.runs.create("p", RECIPE.name, version, 5)
    with pytest.raises(QuotaExceeded) as caught:
        await world.runs.create("p", RECIPE.name, version)
    assert caught.value.reason == "QUEUE_FULL"


async def test_a_run_says_what_it_used_and_what_it_is_made_from(world: World) -> None:
    run = await world.asked()
    world.told("plan", steps=3, precision="fp32")
    for step in range(4):
        world.metric(step)
    world.told("signal", name="OVERFITTING", step=3, message="the gap grows")
    world.result()
    await world.training.run(run.name, world.lease)
    ended = await world.run(run.name)
    usage, made_from = ended.usage, ended.fingerprint
    assert (usage.cpu_s, usage.tokens, usage.peak_memory_bytes) == (7200, 400, 2000)
    assert usage.energy_wh == pytest.approx(7200 * 10 / 3600)
    assert (usage.cost, usage.currency) == (pytest.approx(2 * 0.05 + 0.02 * 0.4), "EUR")
    assert made_from is not None
    assert (made_from.data_sha256, made_from.environment.versions) == ("root", {"torch": "2"})
    assert [(signal.name, signal.step) for signal in ended.signals] == [("OVERFITTING", 3)]
    assert ended.first_step_time is not None
    metrics = await world.runs.metrics_after(run.name, -1)
    assert [metric.step for metric in metrics] == [0, 1, 2, 3]
    assert metrics[0].system is not None


async def test_another_try_adds_to_what_was_used(world: World) -> None:
    run = await world.asked()
    world.told("plan", steps=3, precision="fp32")
    world.metric(1)
    world.children.lines.append(Unavailable("WORKER_CRASHED", "gone"))
    with pytest.raises(Unavailable):
        await world.training.run(run.name, world.lease)
    assert (await world.run(run.name)).usage.cpu_s == 7200
    world.children.lines.pop()
    world.result()
    await world.training.run(run.name, world.lease)
    assert (await world.run(run.name)).usage.cpu_s == 14400


async def test_runs_are_compared_over_the_same_steps_and_by_their_settings(world: World) -> None:
    comparing = Comparing(world.ports, world.runs)
    names: list[str] = []
    for rank, steps in ((4, 100), (8, 40)):
        run = await world.runs.add(replace(RECIPE, lora=LoraConfig(rank=rank)), VERSION, "cycle")
        for step in range(steps + 1):
            value = replace(METRIC, name=f"{run.name}/metrics/{step}", run=run.name, step=step, train_loss=float(step))
            await world.ports.metrics.put(value)
        names.append(run.name)
    found = await comparing.compare("p", names, 11)
    losses = [curve for curve in found.curves if curve.series == "train_loss"]
    assert [point.step for point in losses[0].points] == list(range(10, 101, 10))
    assert [point.step for point in losses[1].points] == [10, 20, 30, 40]
    assert (losses[0].points[0].value, losses[0].points[0].low, losses[0].points[0].high) == (5.5, 1, 10)
    assert found.differences == {"lora.rank": ["4", "8"]}
    with pytest.raises(InvalidInput):
        await comparing.compare("q", names, 11)
    run, curves = await comparing.page(names[0], 0)
    assert (run.name, {curve.series for curve in curves}) == (
        names[0],
        {"train_loss", "learning_rate", "tokens_per_second"},
    )


async def test_f9_a_run_without_space_for_its_checkpoint_is_paused_and_goes_on_when_there_is_some(world: World) -> None:
    run = await world.asked()
    world.told("plan", steps=9, precision="fp32")
    world.metric(4)
    world.children.lines.append(world.checkpoint(4))
    world.files.full = True
    await world.training.run(run.name, world.lease)
    held = await world.run(run.name)
    assert (held.state, held.checkpoints, world.lease.completed) == (RunState.PAUSED, (), True)
    assert [(signal.name, signal.step) for signal in held.signals] == [("INSUFFICIENT_STORAGE", 4)]
    world.files.full, world.lease.completed = False, False
    await world.runs.resume(run.name)
    world.checkpoint(4)
    world.result()
    await world.training.run(run.name, world.lease)
    assert (await world.run(run.name)).state is RunState.SUCCEEDED


async def test_each_metric_is_sent_once_also_when_the_tracker_was_away(world: World) -> None:
    tracker = FakeTracker(away=True)
    mirroring = Mirroring(world.ports, tracker)
    run = await world.asked()
    world.told("plan", steps=3, precision="fp32")
    for step in range(3):
        world.metric(step)
    world.result()
    await world.training.run(run.name, world.lease)
    with pytest.raises(Unavailable):
        await mirroring.advance(run.name, FakeLease())
    tracker.away = False
    for _ in range(2):
        await mirroring.advance(run.name, FakeLease())
    assert (tracker.begun, tracker.steps, tracker.ended) == ([run.name], [0, 1, 2], [RunState.SUCCEEDED])


async def test_a_run_is_estimated_by_what_a_like_one_took(world: World) -> None:
    run = await world.asked(optimization=Optimization(batch_rows=2))
    estimating = Estimating(world.ports)
    first = await estimating.estimate("p", RECIPE.name, VERSION)
    assert (first.rows, first.steps, first.measured_on, first.open_runs) == (5, 3, "", 1)
    world.told("plan", steps=3, precision="fp32")
    world.metric(3)
    world.result()
    await world.training.run(run.name, world.lease)
    # The like run took 3 steps of 2 rows; twice as many rows in all steps take twice as much.
    await world.recipe(optimization=Optimization(batch_rows=4, epochs=2))
    second = await estimating.estimate("p", RECIPE.name, VERSION)
    assert (second.steps, second.measured_on) == (3, run.name)
    assert second.usage.cpu_s == pytest.approx(2 * CONSUMED.cpu_s)
    assert second.usage.peak_memory_bytes == CONSUMED.peak_memory_bytes
    with pytest.raises(PreconditionFailed):
        await estimating.estimate("p", RECIPE.name, "projects/p/datasets/d/versions/9")


async def test_lines_that_come_together_are_kept_together_in_order_also_before_a_failure() -> None:
    async def lines() -> AsyncIterator[Told]:
        for number in (1, 2, 3):
            yield {"type": "metric", "step": number}
        yield {"type": "checkpoint", "step": 3}
        yield {"type": "metric", "step": 4}
        raise Unavailable("WORKER_CRASHED", "gone")

    found: list[list[int]] = []
    with pytest.raises(Unavailable):
        async for group in grouped(lines(), "metric"):
            found.append([told["step"] for told in group])
    assert found == [[1, 2, 3], [3], [4]]


async def test_a_line_that_comes_alone_is_not_held_back() -> None:
    more = asyncio.Event()

    async def lines() -> AsyncIterator[Told]:
        yield {"type": "metric", "step": 1}
        await more.wait()
        yield {"type": "metric", "step": 2}

    found: list[list[int]] = []
    async for group in grouped(lines(), "metric", within_s=0.05):
        found.append([told["step"] for told in group])
        more.set()
    assert found == [[1], [2]]
