"""Use cases of the queue, of tracking and of mirrors, over fakes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mainspring_svckit.errors import (
    IllegalTransition,
    InvalidInput,
    PreconditionFailed,
    QuotaExceeded,
    Unavailable,
)
from mainspring_testkit.fakes import (
    FakeLease,
)
from mainspring_trainer.application.comparing import Comparing
from mainspring_trainer.application.estimating import Estimating
from mainspring_trainer.application.grouping import grouped
from mainspring_trainer.application.mirroring import Mirroring
from mainspring_trainer.application.ports import Told
from mainspring_trainer.application.runs import WORK_KIND
from mainspring_trainer.domain.recipes import (
    DistillationConfig,
    LoraConfig,
    Method,
    OnlineConfig,
    Optimization,
    TeacherSource,
)
from mainspring_trainer.domain.runs import RunState

from .fakes import CONSUMED, FakeTracker
from .world import METRIC, POLICY, RECIPE, VERSION, World


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


async def test_what_a_method_measures_is_a_curve_of_its_own_where_it_was_measured(world: World) -> None:
    comparing = Comparing(world.ports, world.runs)
    preferences, plain = [await world.runs.add(RECIPE, VERSION, "cycle") for _ in range(2)]
    for step in range(5):
        margin = {"validation_reward_margin": step / 4} if step % 2 == 0 else {"reward_margin": 1.0}
        for run, measures in ((preferences, margin), (plain, {})):
            name = f"{run.name}/metrics/{step}"
            await world.ports.metrics.put(replace(METRIC, name=name, run=run.name, step=step, measures=measures))
    _, curves = await comparing.page(preferences.name, 0)
    told = {curve.series: [(point.step, point.value) for point in curve.points] for curve in curves}
    assert list(told)[-2:] == ["reward_margin", "validation_reward_margin"]
    assert told["reward_margin"] == [(1, 1.0), (3, 1.0)]
    assert told["validation_reward_margin"] == [(0, 0.0), (2, 0.5), (4, 1.0)]
    found = await comparing.compare("p", [preferences.name, plain.name], 0)
    assert {curve.run for curve in found.curves if "reward" in curve.series} == {preferences.name}


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


def test_runs_that_let_models_answer_more_do_not_stand_for_those_that_do_less() -> None:
    taught = replace(RECIPE, method=Method.DISTILLATION)
    assert taught.answering == RECIPE.answering == ()
    half = replace(taught, distillation=DistillationConfig(on_policy_share=0.5))
    whole = replace(taught, distillation=DistillationConfig(on_policy_share=1.0))
    answers = replace(taught, distillation=DistillationConfig(source=TeacherSource.ANSWERS))
    few = replace(RECIPE, method=Method.GRPO, online=OnlineConfig(generations=2))
    assert len({recipe.answering for recipe in (taught, half, whole, answers, few)}) == 5


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
