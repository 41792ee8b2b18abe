"""A study against the recipe that it starts from, on real rows and a real model, each with the same compute per run."""

from __future__ import annotations

import asyncio
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Bar, Figure, Result
from bench.trainers import PROJECT, RECIPE, Row, Trainers, smollm2, trainers
from mainspring.training.v1 import recipe_pb2, run_pb2, study_pb2

TRIALS, STEPS, BATCH_ROWS = 8, 12, 8
TRAIN_ROWS, VALIDATION_ROWS = STEPS * BATCH_ROWS, 48
SEEDS = (11, 12)
"""Winner and recipe are tuned anew with each, so that the search's luck with its own seed does not count."""


async def measure(folder: Path, table: Path | None) -> Result:
    """Searches, then tunes the winner and the recipe again with other seeds, in turns, and compares.

    Raises:
        FileNotFoundError: No table is named; the message says how.
    """
    source = table or Path(os.environ.get("MAINSPRING_E2E", ""))
    if not source.is_file():
        raise FileNotFoundError("name the E2E table (CSV with the columns mr and ref) by --data or MAINSPRING_E2E")
    train, validation = _rows(source)
    folder.mkdir(parents=True)
    async with trainers(folder) as made:
        await made.base(await smollm2(folder))
        await made.start(1)
        await made.recipe(optimization=_optimization())
        version = await made.dataset(train, validation)
        study = await _searched(made, version)
        trials = (await made.call("ListStudyTrials", parent=study.name)).study_trials
        best = trials[study.result.best_trial]
        winner, recipe = [list[run_pb2.TrainingRun]() for _ in range(2)]
        for seed in SEEDS:
            await made.recipe(optimization=_optimization(seed=seed))
            recipe.append(await _tuned(made, version))
            await made.recipe(**_applied(best, seed))
            winner.append(await _tuned(made, version))
    gains = [r.result.best_validation_loss - w.result.best_validation_loss for r, w in zip(recipe, winner, strict=True)]
    cpu_s = [sum(run.usage.cpu_s for run in runs) / len(runs) for runs in (winner, recipe)]
    figures = [
        Figure.of("the recipe's validation loss", "nats", [r.result.best_validation_loss for r in recipe]),
        Figure.of("the winner's, same steps and rows", "nats", [w.result.best_validation_loss for w in winner]),
        Figure.of("gain of the winner, by seed", "nats", gains, bar=Bar(0.0, at_least=True)),
        Figure("smallest gain over the seeds", "nats", min(gains), bar=Bar(0.0, at_least=True)),
        Figure("processor time of the winner's run / the recipe's", "ratio", cpu_s[0] / cpu_s[1]),
        Figure("processor time of the whole study", "s", study.result.cpu_s),
        Figure("trials pruned", "trials", study.result.pruned_trials, note=f"of {TRIALS}"),
    ]
    details: dict[str, Any] = {
        "winner": dict(best.parameters),
        "importance": dict(study.result.importance),
        "pareto": list(study.result.pareto_trials),
        "trials": [[dict(t.parameters), list(t.values), study_pb2.StudyTrial.State.Name(t.state)] for t in trials],
        "steps": STEPS,
        "rows": [len(train), len(validation)],
    }
    return Result("train-search", figures, details)


async def _searched(made: Trainers, version: str) -> study_pb2.Study:
    space = [
        study_pb2.SearchParameter(
            path="optimization.learning_rate", double_range=study_pb2.DoubleRange(low=3e-4, high=2e-2, log=True)
        ),
        study_pb2.SearchParameter(path="lora.rank", choices=study_pb2.Choices(values=["4", "8", "16", "32"])),
        study_pb2.SearchParameter(
            path="optimization.warmup_percent", double_range=study_pb2.DoubleRange(low=1, high=40)
        ),
    ]
    asked = study_pb2.Study(
        tuning_recipe=RECIPE,
        dataset_version=version,
        space=space,
        objectives=[study_pb2.Study.OBJECTIVE_VALIDATION_LOSS, study_pb2.Study.OBJECTIVE_ADAPTER_BYTES],
        budget=study_pb2.StudyBudget(trials=TRIALS, parallel_trials=1),
        seed=1,
    )
    name = (await made.call("CreateStudy", parent=PROJECT, study=asked)).study.name
    while True:
        study = (await made.call("GetStudy", name=name)).study
        if study.state == study_pb2.Study.STATE_SUCCEEDED:
            return study
        if study.state != study_pb2.Study.STATE_RUNNING:
            raise RuntimeError(f"the study failed: {study.error.message}")
        await asyncio.sleep(0.5)


async def _tuned(made: Trainers, version: str) -> run_pb2.TrainingRun:
    answer = await made.call("CreateTrainingRun", parent=PROJECT, tuning_recipe=RECIPE, dataset_version=version)
    while True:
        run = (await made.call("GetTrainingRun", name=answer.training_run.name)).training_run
        if run.state == run_pb2.TrainingRun.STATE_SUCCEEDED:
            return run
        if run.state == run_pb2.TrainingRun.STATE_FAILED:
            raise RuntimeError(f"the run failed: {run.error.message}")
        await asyncio.sleep(0.5)


def _optimization(**changes: Any) -> recipe_pb2.Optimization:
    # Everything else is the default that users get.
    fields: dict[str, Any] = {"max_steps": STEPS, "batch_rows": BATCH_ROWS, "validate_every_steps": 4, **changes}
    return recipe_pb2.Optimization(**fields)


def _applied(trial: study_pb2.StudyTrial, seed: int) -> dict[str, Any]:
    """The fields of the recipe that a trial has tried, with another seed."""
    found = trial.parameters
    return {
        "lora": recipe_pb2.LoraConfig(rank=int(found["lora.rank"])),
        "optimization": _optimization(
            learning_rate=float(found["optimization.learning_rate"]),
            warmup_percent=float(found["optimization.warmup_percent"]),
            seed=seed,
        ),
    }


def _rows(source: Path) -> tuple[Sequence[Row], Sequence[Row]]:
    """Rows to learn from, and rows with other inputs to steer by; each input once."""
    with source.open(newline="", encoding="utf-8") as lines:
        answers = {row["mr"]: row["ref"] for row in csv.DictReader(lines)}
    rows = sorted(answers.items())
    # Spread over the table, which is sorted by input.
    chosen = [rows[i * len(rows) // (TRAIN_ROWS + VALIDATION_ROWS)] for i in range(TRAIN_ROWS + VALIDATION_ROWS)]
    validation = chosen[:: len(chosen) // VALIDATION_ROWS][:VALIDATION_ROWS]
    return [row for row in chosen if row not in validation][:TRAIN_ROWS], validation
