"""What commands show of a run's curves: which are drawn, and beside what."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mainspring.training.v1 import run_pb2, tracking_pb2
from mainspring.training.v1 import training_service_pb2 as pb
from mainspring_client.cli import curves, runs
from mainspring_svckit.errors import PreconditionFailed

RUN = "projects/p/trainingRuns/r"


def curve(series: str, *values: float, run: str = RUN) -> tracking_pb2.Curve:
    points = [tracking_pb2.CurvePoint(step=step, value=v, low=v, high=v) for step, v in enumerate(values)]
    return tracking_pb2.Curve(training_run=run, series=series, points=points)


FOUND = [
    curve("train_loss", 1, 0.5),
    curve("validation_loss", 1, 0.6),
    curve("tokens_per_second", 90),
    curve("gpu_memory_bytes", 1),
    curve("reward_margin", 0, 0.4),
    curve("validation_reward_margin", 0, 0.3),
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[str]]]:
    """What was handed to the process that draws: the labels by panel."""
    asked: list[dict[str, list[str]]] = []

    def run(*_: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        panels = json.loads(options["input"])["panels"]
        asked.append({panel: [line["label"] for line in lines] for panel, lines in panels.items()})
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_measures_are_what_neither_the_loss_nor_the_machine_says() -> None:
    assert curves.measures_of([*FOUND, *FOUND]) == ["reward_margin", "validation_reward_margin"]


def test_what_is_measured_of_both_kinds_of_rows_shares_a_panel(drawn: list[dict[str, list[str]]]) -> None:
    curves.draw(Path("run.png"), FOUND, [*curves.LOSSES, *curves.measures_of(FOUND)])
    assert drawn == [
        {"loss": ["train_loss", "validation_loss"], "reward_margin": ["reward_margin", "validation_reward_margin"]}
    ]
    with pytest.raises(PreconditionFailed, match="no points of divergence"):
        curves.draw(Path("run.png"), FOUND, ["divergence"])


def test_a_metric_tells_what_the_method_measures_beside_the_loss() -> None:
    metric = run_pb2.TrainingMetric(step=4, train_loss=0.5, tokens_per_second=90, measures={"b": 0.25, "a": 1})
    assert runs.metric_text(metric) == "step 4  loss 0.5  a 1  b 0.25  90 tokens/s"


def test_runs_that_measured_nothing_have_an_empty_place_in_a_comparison() -> None:
    other = f"{RUN}-2"
    found = pb.CompareTrainingRunsResponse(
        training_runs=[run_pb2.TrainingRun(name=other), run_pb2.TrainingRun(name=RUN)],
        curves=[*FOUND, curve("train_loss", 1, run=other)],
    )
    assert runs.last_values(found, "reward_margin") == ["", "0.4"]
