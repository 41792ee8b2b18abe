"""What goes wrong around a run, with real replicas: others' processes, the database, stored files."""

import asyncio
import os
import signal

from mainspring.events.v1.training_events_pb2 import TrainingRunSucceeded
from mainspring_eventkit.bus import Bus
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.waiting import eventually

from .replicas import RECIPE, Run, Trainer, checkpoint_digest


async def paused(trainer: Trainer) -> Run | None:
    run = await trainer.run()
    return run if run.state == Run.STATE_PAUSED else None


async def test_f10_a_damaged_checkpoint_is_passed_over_and_the_one_before_is_used(trainer: Trainer, bus: Bus) -> None:
    await trainer.start(1)
    await trainer.recipe(steps=20)
    (trainer.folder / "wait-at").write_text("12")
    await publish(bus, await trainer.dataset())
    name = (await trainer.reached(12)).name
    await trainer.call("PauseTrainingRun", name=name)
    run = await eventually(lambda: paused(trainer))
    assert run is not None
    assert [checkpoint.step for checkpoint in run.checkpoints] == [12, 10]
    for area in ("artifacts", "cache"):
        for path in (trainer.folder / area).rglob(checkpoint_digest(12, name)):
            path.write_bytes(bytes(path.stat().st_size))
    (trainer.folder / "wait-at").unlink()
    await trainer.call("ResumeTrainingRun", name=name)
    assert (await trainer.watch(name))[-1].training_run.state == Run.STATE_SUCCEEDED
    assert (trainer.folder / "resumed-from").read_text() == "10"


async def test_f13_many_runs_over_replicas_one_of_which_is_paused_and_wakes_are_done_once(
    trainer: Trainer, event_tap: EventTap
) -> None:
    await trainer.start(3)
    await trainer.recipe(steps=5)
    (trainer.folder / "wait-at").write_text("3")
    version = (await trainer.dataset()).dataset_version
    wish = {"parent": "projects/p", "tuning_recipe": RECIPE, "dataset_version": version}
    names = [(await trainer.call("CreateTrainingRun", **wish)).training_run.name for _ in range(9)]
    await trainer.reached(0)
    # It sleeps longer than its lease; its process goes on, and what both tell when it wakes is refused.
    sleeper = trainer.replicas.pop(0)
    os.kill(sleeper.pid, signal.SIGSTOP)
    try:
        (trainer.folder / "wait-at").unlink()
        await event_tap.wait_for(TrainingRunSucceeded, count=len(names), within_s=90)
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    told = event_tap.of(TrainingRunSucceeded)
    assert sorted(event.training_run for event in told) == sorted(names)
    assert (await sleeper.stop(), len(event_tap.of(TrainingRunSucceeded))) == (0, len(names))


async def test_f6_a_database_that_is_killed_in_the_middle_costs_no_run(
    trainer: Trainer, bus: Bus, event_tap: EventTap, postgres: PostgresServer
) -> None:
    await trainer.start(2)
    await trainer.recipe(steps=20)
    (trainer.folder / "wait-at").write_text("7")
    await publish(bus, await trainer.dataset())
    name = (await trainer.reached(7)).name
    await postgres.kill()
    # The process tells what nobody can keep now.
    (trainer.folder / "wait-at").unlink()
    await asyncio.gather(*(eventually(lambda r=r: not_ready(r)) for r in trainer.replicas))
    await postgres.start()
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=90)
    assert event.training_run == name
    seen = await trainer.watch(name)
    assert sorted({metric.step for response in seen for metric in response.metrics}) == list(range(21))


async def not_ready(replica: object) -> bool:
    return not await replica.is_ready()  # type: ignore[attr-defined]
