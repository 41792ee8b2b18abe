"""What goes wrong around a run, with real replicas: others' processes, the database, stored files."""

import asyncio
import hashlib
import os
import signal

import psutil

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


async def test_f2_a_process_killed_in_any_phase_costs_no_run_and_makes_none_twice(
    trainer: Trainer, bus: Bus, event_tap: EventTap
) -> None:
    """The trainer itself is killed at its own points in `test_f1_killed_at_any_point_...`, with its process in
    `test_i6_...`.
    """
    marks = {
        "starting": 'tell("plan"',
        "with a checkpoint told and not kept yet": "while wait.exists()",
        "with the result told": "",
    }
    script = trainer.python.read_text()
    for place, (phase, before) in enumerate(marks.items(), 1):
        die = f"die({phase!r})\n{'    ' if before.startswith('while') else ''}"
        script = script.replace(before, f"{die}{before}", 1) if before else f"{script}\n{die}"
        (trainer.folder / f"die-{place}").write_text(phase)
    dying = f"""
def die(phase):
    for path in pathlib.Path({str(trainer.folder)!r}).glob("die-*"):
        if path.read_text() == phase and (phase != "with a checkpoint told and not kept yet" or step == 5):
            path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
"""
    trainer.python.write_text(script.replace("done = int(", f"{dying}done = int(", 1))
    await trainer.start(1)
    await trainer.recipe(steps=7)
    await publish(bus, await trainer.dataset())
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=90)
    assert not list(trainer.folder.glob("die-*")), "it was killed in each phase"
    run = await trainer.run()
    assert (run.name, run.attempt, run.state) == (event.training_run, 3, Run.STATE_SUCCEEDED)
    # What comes after shows that the trainer goes on, and that the end was told once.
    await publish(bus, await trainer.dataset(2))
    told = await event_tap.wait_for(TrainingRunSucceeded, count=2, within_s=90)
    assert len({event.training_run for event in told}) == len(told) == 2


async def test_f9_a_store_that_fails_in_the_middle_of_a_write_pauses_the_run_and_keeps_no_half_file(
    trainer: Trainer, bus: Bus
) -> None:
    padded = trainer.python.read_text().replace("{spec['run']}\")", "{spec['run']}\" + ' ' * (4 << 20))", 1)
    trainer.python.write_text(padded)
    (trainer.folder / "wait-at").write_text("3")
    await trainer.start(1)
    await trainer.recipe(steps=7)
    await publish(bus, await trainer.dataset())
    name = (await trainer.reached(3)).name
    # As a full disk does, but for this process only: a file of the store ends in the middle.
    replica = psutil.Process(trainer.replicas[0].pid)
    replica.rlimit(psutil.RLIMIT_FSIZE, (1 << 20, -1))
    (trainer.folder / "wait-at").unlink()
    run = await eventually(lambda: paused(trainer), within_s=60)
    assert run is not None
    assert (run.signals[-1].name, list(run.checkpoints)) == ("INSUFFICIENT_STORAGE", [])
    kept = [path for path in (trainer.folder / "artifacts").rglob("*") if path.is_file()]
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in kept if len(path.name) == 64)
    replica.rlimit(psutil.RLIMIT_FSIZE, (-1, -1))
    await trainer.call("ResumeTrainingRun", name=name)
    assert (await trainer.watch(name))[-1].training_run.state == Run.STATE_SUCCEEDED
