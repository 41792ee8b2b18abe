"""Runs as offline experiments, written by the clients of Comet and W&B and read back from their files."""

from __future__ import annotations

import asyncio
import importlib
import json
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mainspring_svckit.errors import PreconditionFailed
from mainspring_testkit.fakes import FakeLease
from mainspring_trainer.adapters.offline_trackers import OfflineTracker
from mainspring_trainer.application.mirroring import BATCH, Exporting
from mainspring_trainer.domain.runs import RunState, TrainingMetric, TrainingRun

from .test_domain import NOW, RESULT, RUN
from .world import World

PYTHON = sys.executable
NAME = "projects/p/trainingRuns/01a2158c-f525-706d-a3c0-df2941a76351"
METRICS = [
    TrainingMetric(
        f"{NAME}/{step}", NAME, step, step / 4, 1 / (step + 1), 0.5, 1e-3, 100.0, NOW, measures={"divergence": step / 8}
    )
    for step in range(3)
]
ENDED = replace(RUN.taken(NOW).succeeded(RESULT, NOW), name=NAME)


class Kept:
    """`Exporter` that remembers."""

    def __init__(self) -> None:
        self.runs: list[tuple[TrainingRun, list[int]]] = []

    async def write(self, run: TrainingRun, metrics: Any) -> None:
        self.runs.append((run, [metric.step for metric in metrics]))


async def test_a_run_is_given_to_a_tracker_when_it_has_ended_with_all_its_metrics(world: World) -> None:
    exporter, lease = Kept(), FakeLease()
    run = await world.asked()
    await Exporting(world.ports, exporter).advance(run.name, lease)
    assert exporter.runs == []
    assert lease.completed
    steps = list(range(BATCH + 5))
    for step in steps:
        world.metric(step)
    world.result()
    await world.training.run(run.name, world.lease)
    await Exporting(world.ports, exporter).advance(run.name, FakeLease())
    ((kept, told),) = exporter.runs
    assert (kept.state, told) == (RunState.SUCCEEDED, steps)


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a W&B file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")  # Its types are made at run time.
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield messages.Record.FromString(whole)
            whole = b""


async def test_comet_and_wandb_find_settings_values_by_step_and_digests_in_their_own_files(tmp_path: Path) -> None:
    trackers = [OfflineTracker(name, tmp_path / name, PYTHON) for name in ("comet", "wandb")]
    await asyncio.gather(*(tracker.write(ENDED, METRICS) for tracker in trackers))
    (archive,) = (tmp_path / "comet" / "p").iterdir()
    assert archive.name == "01a2158cf525706da3c0df2941a76351.zip"
    with zipfile.ZipFile(archive) as file:
        messages = [json.loads(line)["payload"] for line in file.read("messages.json").splitlines()]
    losses = [m["metric"] for m in messages if m.get("metric", {}).get("metricName") == "train_loss"]
    assert [(loss["step"], loss["metricValue"]) for loss in losses] == [(1, 1 / 2), (2, 1 / 3)]
    measured = [m["metric"] for m in messages if m.get("metric", {}).get("metricName") == "divergence"]
    assert [(one["step"], one["metricValue"]) for one in measured] == [(0, 0), (1, 1 / 8), (2, 1 / 4)]
    others = {m["key"]: m["value"] for m in messages if "key" in m}
    assert others["mainspring.training_run"] == NAME
    (folder,) = (tmp_path / "wandb" / "p").iterdir()
    records = list(wandb_records(next(folder.glob("*.wandb"))))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.run_id, settings["mainspring.training_run"]) == (NAME.rpartition("/")[2], NAME)
    assert settings["lora.rank"] == str(ENDED.recipe.lora.rank)
    told = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    values = [{"".join(i.nested_key) or i.key: json.loads(i.value_json) for i in history.item} for history in told]
    assert [value.get("train_loss") for value in values] == [None, 1 / 2, 1 / 3]
    assert [value.get("divergence") for value in values] == [0, 1 / 8, 1 / 4]
    # Again, after a replica that died before it could say that it was done.
    await trackers[0].write(ENDED, METRICS)
    assert [path.name for path in (tmp_path / "comet" / "p").iterdir()] == [archive.name]


async def test_a_client_that_is_not_installed_is_named(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {PYTHON} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(PreconditionFailed, match=r"mainspring-trainer\[comet\]") as caught:
        await OfflineTracker("comet", tmp_path, str(bare)).write(ENDED, METRICS)
    assert caught.value.reason == "TRACKER_NOT_INSTALLED"
