"""Runs on a real Ray cluster of two machines: the same comes out as from this machine, whatever is lost meanwhile."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mainspring.events.v1.training_events_pb2 import TrainingRunFailed, TrainingRunSucceeded
from mainspring_client.stack.component import free_port
from mainspring_eventkit.bus import Bus
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.ray_cluster import RayCluster, ray_cluster
from mainspring_testkit.waiting import eventually

from .replicas import Run, Trainer, real_worker

WEIGHTS = "adapter/adapter_model.safetensors"
WORKER = "mainspring_training_worker"
WITHIN_S = 170


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(machines=2, python=real_worker()) as made:
        yield made


@pytest.fixture
def joined(cluster: RayCluster, tmp_path: Path) -> dict[str, object]:
    """Settings of a trainer that has its runs done there."""
    python = tmp_path / "joins"
    # Beside the address, a process finds the cluster on loopback by its environment only.
    known = " ".join(f"{name}={value}" for name, value in cluster.env.items() if name != "RAY_AUTH_TOKEN")
    python.write_text(f'#!/bin/sh\nexec env {known} {real_worker()} "$@"\n')
    python.chmod(stat.S_IRWXU)
    return {
        "worker_python": str(python),
        "executor": "ray",
        "ray_address": cluster.address,
        "ray_token": cluster.env["RAY_AUTH_TOKEN"],
        "ray_wait_s": 60,
    }


def machine_of(worker: psutil.Process) -> psutil.Process:
    (raylet,) = [process for process in worker.parents() if process.name() == "raylet"]
    return raylet


@pytest.mark.timeout(600)
async def test_i6_f2_a_run_whose_machine_is_lost_goes_on_elsewhere_and_ends_with_the_same_weights(
    trainer: Trainer, bus: Bus, event_tap: EventTap, cluster: RayCluster, joined: dict[str, object]
) -> None:
    await trainer.start(1, **joined)
    await trainer.recipe(steps=60)
    await publish(bus, await trainer.dataset(), cycle=new_id())
    await trainer.reached(8)
    (worker,) = cluster.processes(WORKER)
    machine_of(worker).kill()
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=WITHIN_S)
    run = await trainer.run()
    assert run.attempt == 1, "the cluster's affair, no try of the trainer"
    assert "WORKER_LOST" in [signal.name for signal in run.signals]
    assert run.usage.cpu_s > 0
    assert not worker.is_running()
    await trainer.replicas.pop().kill()
    await trainer.start(1, worker_python=real_worker())
    await publish(bus, await trainer.dataset(2), cycle=new_id())
    twin = (await event_tap.wait_for(TrainingRunSucceeded, count=2, within_s=WITHIN_S))[1]
    assert twin.artifacts[WEIGHTS].sha256 == event.artifacts[WEIGHTS].sha256
    assert twin.artifacts["adapter.gguf"].sha256 == event.artifacts["adapter.gguf"].sha256


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_i6_f2_two_workers_learn_a_run_together_also_when_one_is_killed(
    trainer: Trainer, bus: Bus, event_tap: EventTap, cluster: RayCluster, joined: dict[str, object]
) -> None:
    await trainer.start(1, **joined, ray_workers=2)
    await trainer.recipe(steps=120)
    await publish(bus, await trainer.dataset(), cycle=new_id())
    await trainer.reached(8)
    workers = cluster.processes(WORKER)
    assert len({machine_of(worker) for worker in workers}) == 2
    workers[1].kill()
    (event,) = await event_tap.wait_for(TrainingRunSucceeded, within_s=WITHIN_S)
    assert "WORKER_LOST" in [signal.name for signal in (await trainer.run()).signals]
    report = await trainer.store.read("p", artifact_from_proto(event.artifacts["training_report.json"]))
    assert json.loads(report)["workers"] == 2
    await publish(bus, await trainer.dataset(2), cycle=new_id())
    twin = (await event_tap.wait_for(TrainingRunSucceeded, count=2, within_s=WITHIN_S))[1]
    assert twin.artifacts[WEIGHTS].sha256 == event.artifacts[WEIGHTS].sha256


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_f2_a_run_on_a_cluster_is_paused_resumed_and_cancelled_and_leaves_no_worker(
    trainer: Trainer, bus: Bus, event_tap: EventTap, cluster: RayCluster, joined: dict[str, object]
) -> None:
    async def nobody() -> bool:
        return not cluster.processes(WORKER)

    await trainer.start(1, **joined)
    await trainer.recipe(steps=2000)
    await publish(bus, await trainer.dataset(), cycle=new_id())
    run = await trainer.reached(8)
    await trainer.call("PauseTrainingRun", name=run.name)

    async def paused() -> Run | None:
        found = await trainer.run()
        return found if found.state == Run.STATE_PAUSED else None

    held = await eventually(paused, within_s=WITHIN_S, what="the pause")
    assert held is not None
    assert held.checkpoints[0].step >= 8
    await eventually(nobody, within_s=WITHIN_S, what="the worker to go")
    await trainer.call("ResumeTrainingRun", name=run.name)
    resumed = await trainer.reached(held.progress.done + 5)
    assert resumed.latest_metric.step > held.checkpoints[0].step
    await trainer.call("CancelTrainingRun", name=run.name)
    await eventually(nobody, within_s=WITHIN_S, what="the worker to go")
    assert (await trainer.run()).state == Run.STATE_CANCELLED


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_f2_a_trainer_that_is_killed_leaves_no_worker_on_the_cluster_and_the_next_goes_on(
    trainer: Trainer, bus: Bus, event_tap: EventTap, cluster: RayCluster, joined: dict[str, object]
) -> None:
    await trainer.start(1, **joined)
    await trainer.recipe(steps=120)
    await publish(bus, await trainer.dataset(), cycle=new_id())
    await trainer.reached(8)
    (worker,) = cluster.processes(WORKER)
    await trainer.replicas.pop().kill()

    async def gone() -> bool:
        return not worker.is_running()

    await eventually(gone, within_s=WITHIN_S, what="the worker to end")
    await trainer.start(1, **joined)
    await event_tap.wait_for(TrainingRunSucceeded, within_s=WITHIN_S)
    assert (await trainer.run()).attempt == 2


async def test_a_cluster_that_nobody_answers_for_is_tried_again_and_then_the_run_says_so(
    trainer: Trainer, bus: Bus, event_tap: EventTap
) -> None:
    settings = {"executor": "ray", "ray_address": f"ray://127.0.0.1:{free_port()}", "run_attempts": 1}
    await trainer.start(1, worker_python=real_worker(), **settings)
    await trainer.recipe()
    await publish(bus, await trainer.dataset(), cycle=new_id())
    (event,) = await event_tap.wait_for(TrainingRunFailed, within_s=WITHIN_S)
    assert event.reason == "CLUSTER_UNAVAILABLE"
