"""Use cases of looking at runs: one as a page, several beside each other.

The curves are those that every run has, then what its method measures beside the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.names import TrainingRunName
from mainspring_svckit.repository import require
from mainspring_trainer.application.ports import Ports
from mainspring_trainer.application.runs import Runs
from mainspring_trainer.domain.runs import TrainingMetric, TrainingRun
from mainspring_trainer.domain.tracking import Curve, differences, thinned

DEFAULT_POINTS = 200
_SERIES: Mapping[str, Callable[[TrainingMetric], float | None]] = {
    # What is told before the first step is no loss of training.
    "train_loss": lambda m: m.train_loss if m.step else None,
    "validation_loss": lambda m: m.validation_loss,
    "learning_rate": lambda m: m.learning_rate,
    "tokens_per_second": lambda m: m.tokens_per_second if m.step else None,
    "cpu_percent": lambda m: m.system.cpu_percent if m.system else None,
    "memory_bytes": lambda m: m.system.memory_bytes if m.system else None,
    "gpu_percent": lambda m: m.system.gpu_percent if m.system and m.system.gpu_memory_bytes else None,
    "gpu_memory_bytes": lambda m: m.system.gpu_memory_bytes or None if m.system else None,
}
_NO_SETTING = {"name", "model"}


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other; `differences` holds, by path, each run's value as JSON."""

    runs: Sequence[TrainingRun]
    curves: Sequence[Curve]
    differences: dict[str, list[str]]


class Comparing:
    """Use cases of looking at runs."""

    def __init__(self, ports: Ports, runs: Runs) -> None:
        self._ports, self._runs = ports, runs

    async def page(self, name: str, max_points: int) -> tuple[TrainingRun, Sequence[Curve]]:
        """A run with all its curves.

        Raises:
            NotFound: There is no such run.
        """
        ((run, metrics),) = await self._read([name])
        last = metrics[-1].step if metrics else 0
        return run, _curves(run.name, metrics, last, max_points)

    async def compare(self, project: str, names: Sequence[str], max_points: int) -> Comparison:
        """Several runs of a project.

        Raises:
            InvalidInput: One is of another project.
            NotFound: There is no such run.
        """
        if any(TrainingRunName.parse(name, "training_runs").project != project for name in names):
            message = f"all of training_runs must be of projects/{project}; compare runs of one project"
            raise InvalidInput(message, reason="PROJECT_DIFFERS")
        found = await self._read(names)
        last = max((metrics[-1].step for _, metrics in found if metrics), default=0)
        curves = [curve for run, metrics in found for curve in _curves(run.name, metrics, last, max_points)]
        runs = [run for run, _ in found]
        return Comparison(runs, curves, differences([_settings(run) for run in runs]))

    async def _read(self, names: Sequence[str]) -> list[tuple[TrainingRun, list[TrainingMetric]]]:
        async with self._ports.transactions.transaction():
            return [
                (
                    (await require(self._ports.runs, "TrainingRun", name)).value,
                    await self._runs.metrics_after(name, -1),
                )
                for name in names
            ]


def _curves(run: str, metrics: Sequence[TrainingMetric], last_step: int, max_points: int) -> list[Curve]:
    values = {
        series: [(m.step, value) for m in metrics if (value := value_of(m)) is not None]
        for series, value_of in _SERIES.items()
    }
    for name in sorted({name for m in metrics for name in m.measures} - _SERIES.keys()):
        values[name] = [(m.step, m.measures[name]) for m in metrics if name in m.measures]
    most = max(2, max_points or DEFAULT_POINTS)
    curves = [Curve(run, series, thinned(of, last_step=last_step, max_points=most)) for series, of in values.items()]
    return [curve for curve in curves if curve.points]


def _settings(run: TrainingRun) -> dict[str, Any]:
    """What may explain that two runs differ."""
    recipe = {key: value for key, value in asdict(run.recipe).items() if key not in _NO_SETTING}
    made_from = asdict(run.fingerprint) if run.fingerprint is not None else {}
    return {
        **recipe,
        "dataset_version": run.dataset_version,
        "parent_model_version": run.parent_model_version,
        "precision": run.precision,
        "fingerprint": made_from,
    }
