"""The trainer's queue: 200 runs over three replicas, one of which is killed; how soon a run makes its first step."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.figures import Bar, Figure, Result, percentile
from bench.trainers import PROJECT, RECIPE, Trainers, smollm2, trainers
from mainspring.events.v1.training_events_pb2 import TrainingRunSucceeded
from mainspring.training.v1 import recipe_pb2, run_pb2
from mainspring_testkit.tiny import tiny_llama

RUNS, REPLICAS, AT_A_TIME = 200, 3, 2
FIRST_STEP_BAR_S = 10.0
IDLE_S = 20.0
"""In which a trainer has its next process load its libraries."""
ROWS = [(f"sack {number}, mill {number % 4}", ["corn", "wheat", "rye", "oats"][number % 4]) for number in range(64)]
# Stands for the compute only: it tells what the worker tells, and notes each run that it has ended.
_STAND_IN = """
import json, os, pathlib, sys, time
sys.stdin.read()  # Its end says that the specification is there.
spec = json.loads(pathlib.Path(sys.argv[-1]).read_text())
output = pathlib.Path(spec["output"])
def tell(kind, **values):
    os.write(spec["progress_fd"], (json.dumps({"type": kind, **values}) + "\\n").encode())
tell("plan", steps=4, precision="fp32")
for step in range(5):
    tell("metric", step=step, epoch=step / 4, train_loss=2 - step / 4, validation_loss=2 - step / 4,
         learning_rate=1e-3, tokens_per_second=100.0)
    time.sleep(0.05)
roles = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter.gguf", "fidelity_probe.json",
         "training_report.json"]
(output / "file").write_text("made by " + spec["run"])
tell("result", files=dict.fromkeys(roles, "file"), best_step=4, best_validation_loss=1.0,
     initial_validation_loss=2.0, steps=4, tokens=10, stopped_early=False, rows_too_long=0)
"""


async def measure(folder: Path) -> Result:
    """Both measurements."""
    queue = await _queue(folder / "queue")
    first_step_s, following_s = await _first_step(folder / "first-step")
    figures = [
        *queue,
        Figure.of("accepted to first step, SmolLM2-135M, warm", "s", first_step_s, bar=Bar(FIRST_STEP_BAR_S)),
        Figure.of("the same, asked for as soon as a run before it ended", "s", following_s),
    ]
    return Result("train-queue", figures, {"runs": RUNS, "replicas": REPLICAS, "runs_at_a_time": AT_A_TIME})


async def _queue(folder: Path) -> list[Figure]:
    folder.mkdir(parents=True)
    python = folder / "python"
    python.write_text(f"#!{sys.executable}\n{_STAND_IN}")
    python.chmod(0o755)
    settings: dict[str, Any] = {"worker_python": str(python), "runs_at_a_time": AT_A_TIME, "torch_threads": 1}
    async with trainers(folder) as made:
        await made.base(tiny_llama(folder / "tiny"))
        await made.start(REPLICAS, **settings)
        await made.recipe()
        version = await made.dataset(ROWS[:48], ROWS[48:])
        began = time.monotonic()
        asked = [await _asked(made, version) for _ in range(RUNS)]
        await made.tap.wait_for(TrainingRunSucceeded, count=RUNS // 3, within_s=300)
        await made.replicas.pop(0).kill()
        runs = await _ended(made, asked)
        seconds = time.monotonic() - began
        await made.tap.wait_for(TrainingRunSucceeded, count=RUNS, within_s=30)
        told = Counter(event.training_run for event in made.tap.of(TrainingRunSucceeded))
    succeeded = [run for run in runs if run.state == run_pb2.TrainingRun.STATE_SUCCEEDED]
    waits = [run.start_time.ToMilliseconds() / 1000 - run.create_time.ToMilliseconds() / 1000 for run in runs]
    again = sum(run.attempt > 1 for run in runs)
    return [
        Figure(f"{RUNS} runs over {REPLICAS} replicas, one killed: lost", "runs", RUNS - len(succeeded), bar=Bar(0)),
        Figure("told of twice", "runs", sum(count > 1 for count in told.values()), bar=Bar(0)),
        Figure("taken a second time after the kill", "runs", again, bar=Bar(AT_A_TIME)),
        Figure("whole queue", "s", seconds),
        Figure("wait in the queue, p50", "s", percentile(waits, 50)),
    ]


async def _first_step(folder: Path) -> tuple[list[float], list[float]]:
    """Runs of the real worker on a real model: each after a while without any, and each right after another one. The
    first, which warms the cache, is left out.
    """
    folder.mkdir(parents=True)
    seconds: tuple[list[float], list[float]] = ([], [])
    async with trainers(folder) as made:
        await made.base(await smollm2(folder))
        await made.start(1)
        optimization = recipe_pb2.Optimization(max_steps=1, batch_rows=4, validate_every_steps=1)
        await made.recipe(optimization=optimization)
        version = await made.dataset(ROWS[:48], ROWS[48:52])
        for number in range(7):
            following = number % 2 == 0
            if not following:
                await asyncio.sleep(IDLE_S)
            (run,) = await _ended(made, [await _asked(made, version)])
            if run.state != run_pb2.TrainingRun.STATE_SUCCEEDED:
                raise RuntimeError(f"the run failed: {json.dumps(run.error.message)}")
            if number:
                first, asked = run.first_step_time.ToMilliseconds(), run.create_time.ToMilliseconds()
                seconds[following].append((first - asked) / 1000)
    return seconds


async def _asked(made: Trainers, version: str) -> str:
    answer = await made.call("CreateTrainingRun", parent=PROJECT, tuning_recipe=RECIPE, dataset_version=version)
    return answer.training_run.name


async def _ended(made: Trainers, names: list[str]) -> list[run_pb2.TrainingRun]:
    """The runs, once all of them have ended."""
    waiting = {run_pb2.TrainingRun.STATE_PENDING, run_pb2.TrainingRun.STATE_RUNNING}
    runs: dict[str, run_pb2.TrainingRun] = {}
    while len(runs) < len(names):
        for name in names:
            if name not in runs:
                run = (await made.call("GetTrainingRun", name=name)).training_run
                if run.state in waiting:
                    break
                runs[name] = run
        await asyncio.sleep(0.2)
    return [runs[name] for name in names]
