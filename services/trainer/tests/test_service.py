"""The trainer as its users meet it: gRPC, events in and out, real NATS and Postgres, and the real training worker."""

import os
import signal
import sys

import pytest

from mainspring.events.v1.training_events_pb2 import TrainingRunCancelled, TrainingRunFailed, TrainingRunSucceeded
from mainspring.training.v1 import recipe_pb2
from mainspring_eventkit.bus import Bus
from mainspring_svckit.errors import ConcurrentChange, InvalidInput, NotFound, PreconditionFailed
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_from_proto, failure_from_proto
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.waiting import eventually

from .replicas import BASE, DATASET, MODEL, RECIPE, Run, Trainer, checkpoint_digest, children_of, gone, real_worker


async def test_a_published_version_becomes_an_adapter(trainer: Trainer, bus: Bus, event_tap: EventTap) -> None:
    await trainer.start(worker_python=real_worker())
    await trainer.recipe()
    published, cycle = await trainer.dataset(), new_id()
    for _ in range(3):  # The bus delivers at least once; the effect is single.
        await publish(bus, published, cycle=cycle, event_id="published")
    run = await eventually(trainer.run)
    seen = await trainer.watch(run.name)
    assert seen[-1].training_run.state == Run.STATE_SUCCEEDED, seen[-1].training_run.error.message
    steps = [metric.step for response in seen for metric in response.metrics]
    assert steps == list(range(13))
    result = seen[-1].training_run.result
    assert (result.steps, seen[-1].training_run.attempt) == (12, 1)
    assert result.best_validation_loss < result.initial_validation_loss
    (event,) = await event_tap.wait_for(TrainingRunSucceeded)
    assert (event.training_run, event.model, event.base_model_version) == (run.name, MODEL, BASE)
    assert (event.dataset_version, event.dataset_root_sha256) == (published.dataset_version, published.root_sha256)
    assert event.artifacts == result.artifacts
    assert [e.cycle for e in event_tap.events if e.subject == run.name] == [cycle]
    gguf = await trainer.store.read("p", artifact_from_proto(event.artifacts["adapter.gguf"]))
    assert gguf.startswith(b"GGUF")
    assert len((await trainer.call("ListTrainingRuns", parent="projects/p")).training_runs) == 1


async def test_preferences_become_an_adapter_and_other_rows_are_refused(
    trainer: Trainer, bus: Bus, event_tap: EventTap
) -> None:
    await trainer.start(1, worker_python=real_worker())
    await trainer.recipe(
        method=recipe_pb2.TuningRecipe.METHOD_DPO,
        lora=recipe_pb2.LoraConfig(rank=4),
        preference=recipe_pb2.PreferenceConfig(beta=0.2),
        optimization=recipe_pb2.Optimization(epochs=10, batch_rows=8, learning_rate=0.005, max_steps=20),
    )
    stored = (await trainer.call("GetTuningRecipe", name=RECIPE)).tuning_recipe
    assert (stored.method, stored.preference.beta) == (recipe_pb2.TuningRecipe.METHOD_DPO, 0.2)
    assert (stored.preference.desirable_weight, stored.preference.undesirable_weight) == (1, 1)
    await publish(bus, await trainer.dataset(1, pairs=True), cycle=new_id())
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=120)
    result = (await trainer.call("GetTrainingRun", name=event.training_run)).training_run.result
    assert result.best_validation_loss < 0.65 < 0.69 < result.initial_validation_loss
    await publish(bus, await trainer.dataset(2), cycle=new_id())
    (refused,) = await event_tap.wait_for(TrainingRunFailed, within_s=60)
    assert (refused.reason, "METHOD_DPO learns from" in refused.message) == ("DATASET_MISMATCH", True)


async def test_a_whole_model_from_nothing_has_the_files_of_a_foundation_model(
    trainer: Trainer, bus: Bus, event_tap: EventTap
) -> None:
    await trainer.start(1, worker_python=real_worker())
    await trainer.recipe(
        method=recipe_pb2.TuningRecipe.METHOD_PRETRAINING,
        pretraining=recipe_pb2.PretrainingConfig(parameters=300_000, vocabulary=400),
        optimization=recipe_pb2.Optimization(epochs=10, batch_rows=8, learning_rate=0.003, max_steps=20),
    )
    await publish(bus, await trainer.dataset(), cycle=new_id())
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=120)
    assert {"hf/config.json", "hf/model.safetensors", "hf/tokenizer.json", "gguf"} < set(event.artifacts)
    result = (await trainer.call("GetTrainingRun", name=event.training_run)).training_run.result
    assert result.best_validation_loss < result.initial_validation_loss - 0.5


async def test_i6_a_trainer_killed_with_its_process_is_followed_by_another_that_ends_the_same(
    trainer: Trainer, bus: Bus, event_tap: EventTap
) -> None:
    """F2: the run is killed in the middle; its twin is not disturbed, and began in a spare process."""
    await trainer.start(1, worker_python=real_worker())
    await trainer.recipe(steps=40)
    await publish(bus, await trainer.dataset(), cycle=new_id())
    await trainer.reached(8)
    before = children_of(trainer.replicas[0])
    assert before
    await trainer.replicas.pop().kill()
    await eventually(lambda: gone(before), what="the training process to die with the trainer")
    await trainer.start(1, worker_python=real_worker(), spare_worker=True)
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=120)
    assert (await trainer.run()).attempt == 2

    async def spare() -> list[int]:
        return children_of(trainer.replicas[0])

    waiting = await eventually(spare, within_s=60, what="the next spare process")
    await publish(bus, await trainer.dataset(2), cycle=new_id())
    twin = (await event_tap.wait_for(TrainingRunSucceeded, count=2, within_s=120))[1]
    weights = "adapter/adapter_model.safetensors"
    assert twin.artifacts[weights].sha256 == event.artifacts[weights].sha256
    assert twin.artifacts["adapter.gguf"].sha256 == event.artifacts["adapter.gguf"].sha256
    await eventually(lambda: gone(waiting), what="the spare process to end with the twin that it was")


async def test_f2_a_process_killed_alone_is_followed_by_one_that_goes_on(
    trainer: Trainer, bus: Bus, event_tap: EventTap
) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=12)
    (trainer.folder / "wait-at").write_text("7")
    await publish(bus, await trainer.dataset())
    await trainer.reached(7)
    (trainer.folder / "wait-at").unlink()
    os.kill(int((trainer.folder / "pid").read_text()), signal.SIGKILL)
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=60)
    assert (await trainer.run()).attempt == 2
    assert (trainer.folder / "resumed-from").read_text() == "5"
    seen = await trainer.watch(event.training_run)
    assert [metric.step for metric in seen[0].metrics] == list(range(13))


async def test_f20_a_trainer_that_stops_hands_its_run_over(trainer: Trainer, bus: Bus, event_tap: EventTap) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=20)
    (trainer.folder / "wait-at").write_text("7")
    await publish(bus, await trainer.dataset())
    await trainer.reached(7)
    trainer.replica()
    stopping, starting = trainer.replicas
    await starting.start()
    pid = int((trainer.folder / "pid").read_text())
    assert await stopping.stop() == 0
    assert await gone([pid])
    trainer.replicas.remove(stopping)

    async def taken_over() -> bool:
        return (await trainer.run()).attempt == 2

    await eventually(taken_over)
    (trainer.folder / "wait-at").unlink()
    (event,) = await event_tap.wait_for(TrainingRunSucceeded)
    seen = await trainer.watch(event.training_run)
    assert [metric.step for metric in seen[0].metrics] == list(range(21))


async def test_a_cancelled_run_ends_its_process(trainer: Trainer, bus: Bus, event_tap: EventTap) -> None:
    await trainer.start()
    await trainer.recipe(steps=20)
    (trainer.folder / "wait-at").write_text("6")
    await publish(bus, await trainer.dataset())
    run = await trainer.reached(6)
    pid = int((trainer.folder / "pid").read_text())
    cancelled = (await trainer.call("CancelTrainingRun", name=run.name, request_id=new_id())).training_run
    assert cancelled.state == Run.STATE_CANCELLED
    await eventually(lambda: gone([pid]), what="the process to end")
    assert (await event_tap.wait_for(TrainingRunCancelled))[0].training_run == run.name
    with pytest.raises(PreconditionFailed) as caught:
        await trainer.call("CancelTrainingRun", name=run.name)
    assert caught.value.reason == "ILLEGAL_STATE_TRANSITION"

    async def tidy() -> bool:
        return not list((trainer.folder / "artifacts").rglob(checkpoint_digest(5, run.name)))

    await eventually(tidy, what="the checkpoint to be removed")
    (trainer.folder / "wait-at").unlink()
    asked = await trainer.call(
        "CreateTrainingRun", parent="projects/p", tuning_recipe=RECIPE, dataset_version=f"{DATASET}/versions/1"
    )
    assert (await trainer.watch(asked.training_run.name))[-1].training_run.state == Run.STATE_SUCCEEDED


async def test_a_run_is_paused_with_a_checkpoint_and_goes_on_from_it_at_another_trainer(
    trainer: Trainer, event_tap: EventTap
) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=12)
    (trainer.folder / "wait-at").write_text("7")
    asked = {"parent": "projects/p", "tuning_recipe": RECIPE, "priority": 3}
    asked["dataset_version"] = (await trainer.dataset()).dataset_version
    name = (await trainer.call("CreateTrainingRun", **asked)).training_run.name
    await trainer.reached(7)
    pausing = (await trainer.call("PauseTrainingRun", name=name, request_id=new_id())).training_run
    assert (pausing.state, pausing.pausing, pausing.priority) == (Run.STATE_RUNNING, True, 3)

    async def paused() -> Run | None:
        run = await trainer.run()
        return run if run.state == Run.STATE_PAUSED else None

    run = await eventually(paused)
    assert run is not None
    assert [checkpoint.step for checkpoint in run.checkpoints][:1] == [7]
    assert run.usage.cpu_s > 0
    (trainer.folder / "wait-at").unlink()
    await trainer.replicas.pop().stop()
    await trainer.start(1)
    assert (await trainer.call("ResumeTrainingRun", name=name)).training_run.state == Run.STATE_PENDING
    assert (await event_tap.wait_for(TrainingRunSucceeded, within_s=60))[0].training_run == name
    assert (trainer.folder / "resumed-from").read_text() == "7"
    page = await trainer.call("GetTrainingRunPage", name=name, max_points=100)
    assert page.training_run.usage.peak_memory_bytes > 1 << 20
    assert (page.training_run.HasField("first_step_time"), page.tuning_recipe.lora.rank) == (True, 4)
    losses = {curve.series: [point.step for point in curve.points] for curve in page.curves}
    assert losses["train_loss"] == list(range(1, 13))
    assert losses["validation_loss"] == [0, 5, 10]
    assert losses["reward_margin"] == list(range(1, 13))
    with pytest.raises(PreconditionFailed):
        await trainer.call("PauseTrainingRun", name=name)


@pytest.mark.parametrize(
    "point",
    [
        "trainer-datasets:before-effect",
        "trainer-datasets:before-commit",
        "trainer-datasets:before-ack",
        "training-run:after-claim",
        "artifacts:after-put",
        "outbox:before-publish",
        "outbox:after-publish",
    ],
)
async def test_f1_killed_at_any_point_a_published_version_is_learned_once(
    trainer: Trainer, bus: Bus, event_tap: EventTap, point: str
) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=6)
    (first,) = trainer.replicas
    await first.kill()
    await first.start(ready=False, MAINSPRING_CRASH_AT=point)
    await publish(bus, await trainer.dataset(), cycle=new_id())
    assert await first.wait() == 137
    trainer.replicas.clear()
    await trainer.start(1)
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=60)
    runs = (await trainer.call("ListTrainingRuns", parent="projects/p")).training_runs
    assert [run.name for run in runs] == [event.training_run]


async def test_a_run_that_cannot_be_says_why(trainer: Trainer, bus: Bus, event_tap: EventTap) -> None:
    trainer.python.write_text(f"#!{sys.executable}\nraise SystemExit('the cause')")
    await trainer.start(run_attempts=2)
    await trainer.recipe(base_model_version="projects/p/models/none/versions/1")
    await publish(bus, await trainer.dataset(), cycle=new_id())
    (event,) = await event_tap.wait_for(TrainingRunFailed)
    assert event.reason == "BASE_MODEL_UNKNOWN"
    run = (await trainer.call("GetTrainingRun", name=event.training_run)).training_run
    assert failure_from_proto(run.error) == (event.reason, event.message)
    await trainer.recipe()
    await publish(bus, await trainer.dataset(2, train=0), cycle=new_id())
    assert (await event_tap.wait_for(TrainingRunFailed, count=2))[1].reason == "NO_TRAINING_ROWS"
    await publish(bus, await trainer.dataset(3), cycle=new_id())
    crashed = (await event_tap.wait_for(TrainingRunFailed, count=3))[2]
    assert (crashed.reason, "the cause" in crashed.message) == ("WORKER_CRASHED", True)
    assert (await trainer.call("GetTrainingRun", name=crashed.training_run)).training_run.attempt == 2


async def test_requests_are_checked_and_repeats_are_one(trainer: Trainer) -> None:
    await trainer.start()
    with pytest.raises(InvalidInput) as caught:
        await trainer.recipe(dataset="d", method=0)
    assert {v.field for v in caught.value.violations} == {"tuning_recipe.dataset", "tuning_recipe.method"}
    await trainer.recipe()
    stored = (await trainer.call("GetTuningRecipe", name=RECIPE)).tuning_recipe
    assert (stored.lora.alpha, stored.optimization.max_sequence_tokens, stored.replay_ratio) == (8, 512, 1)
    await trainer.call("UpdateTuningRecipe", tuning_recipe=stored)
    with pytest.raises(ConcurrentChange) as stale:
        await trainer.call("UpdateTuningRecipe", tuning_recipe=stored)
    assert stale.value.reason == "ETAG_MISMATCH"
    (trainer.folder / "wait-at").write_text("0")
    wish = {
        "parent": "projects/p",
        "tuning_recipe": RECIPE,
        "dataset_version": (await trainer.dataset()).dataset_version,
        "request_id": new_id(),
    }
    both = [(await trainer.call("CreateTrainingRun", **wish)).training_run for _ in range(2)]
    assert both[0] == both[1]
    assert both[0].state == Run.STATE_PENDING
    with pytest.raises(NotFound):
        await trainer.call("ListTrainingMetrics", parent="projects/p/trainingRuns/none")
    (trainer.folder / "wait-at").unlink()
    await trainer.watch(both[0].name)
    pages, token = [], ""
    while not pages or token:
        page = await trainer.call("ListTrainingMetrics", parent=both[0].name, page_size=5, page_token=token)
        pages.append([metric.step for metric in page.training_metrics])
        token = page.next_page_token
    assert pages == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12]]
    assert len((await trainer.call("ListTuningRecipes", parent="projects/p")).tuning_recipes) == 1
