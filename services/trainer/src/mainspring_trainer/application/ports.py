"""What the trainer's use cases need from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mainspring_svckit.clock import Clock
from mainspring_svckit.ports import Artifacts, Notifier, Transactions, Work
from mainspring_svckit.repository import Repository
from mainspring_svckit.values import ArtifactRef
from mainspring_trainer.domain.recipes import TuningRecipe
from mainspring_trainer.domain.runs import Dataset, TrainingMetric, TrainingRun
from mainspring_trainer.domain.studies import Setting, Study, StudyResult, StudyTrial
from mainspring_trainer.domain.tracking import Consumption, Environment

Told = Mapping[str, Any]
"""One line of a training process: its `type` and what belongs to it."""


class Announcements(Protocol):
    """Tells other services what happened; joins the ambient transaction."""

    async def run_succeeded(self, run: TrainingRun) -> None:
        """A run made an adapter."""
        ...

    async def run_failed(self, run: TrainingRun) -> None:
        """A run cannot end."""
        ...

    async def run_cancelled(self, run: TrainingRun) -> None:
        """Somebody cancelled a run."""
        ...


@dataclass(frozen=True)
class ModelVersion:
    """What the trainer needs to know of a model version.

    Attributes:
        name: Its own name, also when it was asked for by an alias.
        kind: `FOUNDATION` or `ADAPTER`, for example.
        base_model_version: Foundation model of an adapter, or empty.
        dataset_version: Data that it learned from, or empty.
        files: Its files by role.
        quantized_from: Version that it was compressed from, which has the adapter; or empty.
    """

    name: str
    kind: str
    base_model_version: str
    dataset_version: str
    files: Mapping[str, ArtifactRef]
    quantized_from: str = ""


class Models(Protocol):
    """The catalogue of models."""

    async def version(self, name: str) -> ModelVersion | None:
        """A version by number or alias; None when there is none.

        Raises:
            Unavailable: The catalogue could not be asked.
        """
        ...


class Datasets(Protocol):
    """The catalogue of datasets."""

    async def version(self, name: str) -> Dataset | None:
        """A version; None when there is none.

        Raises:
            Unavailable: The catalogue could not be asked.
        """
        ...


class Files(Artifacts, Protocol):
    """The artifact store, with a cache of files on this machine."""

    async def fetch(self, project: str, artifact: ArtifactRef) -> Path:
        """A local file with these bytes, verified; not to be written to."""
        ...

    async def fetch_folder(self, project: str, files: Mapping[str, ArtifactRef]) -> Path:
        """A local folder with these files by name; not to be written to."""
        ...

    async def put_file(self, project: str, path: Path, *, media_type: str = "", filename: str = "") -> ArtifactRef:
        """Stores a file."""
        ...

    async def discard(self, project: str, artifact: ArtifactRef) -> None:
        """Removes a file that nothing refers to any more; one that is not there is fine."""
        ...


class Child(Protocol):
    """A training process."""

    @property
    def output(self) -> Path:
        """The folder with the files that it names; it is removed with the child."""
        ...

    def told(self) -> AsyncIterator[Told]:
        """What it tells, line by line, until it has ended.

        Raises:
            MainspringError: It refused, or ended in another way than with a result; the reason says which.
                `Unavailable` when another try may help.
        """
        ...

    async def stop(self) -> None:
        """Asks it to write a checkpoint and end; `told` then ends without an error."""
        ...

    def consumed(self) -> Consumption:
        """What it has used until now, with all that it started; good also after its end."""
        ...


class Children(Protocol):
    """Starts training processes."""

    def start(self, name: str, spec: Mapping[str, Any]) -> AbstractAsyncContextManager[Child]:
        """A process for a specification; leaving the block kills what is left of it.

        Args:
            name: The run's resource name.
            spec: What to do; where to write and whom to tell is added.
        """
        ...

    async def environment(self) -> Environment:
        """The software that they run; without digests when it cannot be described."""
        ...


class Wishes(Protocol):
    """What people want of runs that a trainer has."""

    async def pause(self, name: str) -> None:
        """Returns when somebody wants the run paused."""
        ...


class Search(Protocol):
    """Chooses trials, ends them early, and sums up; knows nothing but what it is shown."""

    async def ask(
        self, study: Study, trials: Sequence[StudyTrial], given: Mapping[str, Setting] | None
    ) -> tuple[Mapping[str, Setting], Mapping[str, Any]]:
        """Settings of the next trial (`given`, when there are some), and what to remember of it."""
        ...

    async def judge(self, study: Study, trials: Sequence[StudyTrial], trial: StudyTrial) -> StudyTrial:
        """A running trial of these, PRUNED when the others leave it behind, and with what to remember of it."""
        ...

    async def result(self, study: Study, trials: Sequence[StudyTrial]) -> StudyResult | None:
        """What was found; None while no trial is complete."""
        ...


@dataclass(frozen=True)
class Mirrored:
    """How far a run was mirrored: its id over there, and the last step that was sent."""

    name: str
    remote_id: str = ""
    step: int = -1
    ended: bool = False


class Exporter(Protocol):
    """An experiment tracker that is given whole runs."""

    async def write(self, run: TrainingRun, metrics: Sequence[TrainingMetric]) -> None:
        """Keeps a run that has ended, with all its metrics; one that it has already stays as it is.

        Raises:
            Unavailable: It cannot be done now.
            MainspringError: It cannot be done.
        """
        ...


class Tracker(Protocol):
    """An experiment tracker."""

    async def begin(self, run: TrainingRun) -> str:
        """Makes the run there; returns its id.

        Raises:
            Unavailable: The tracker is away.
            MainspringError: It refuses.
        """
        ...

    async def add(self, remote_id: str, metrics: list[TrainingMetric]) -> None:
        """Sends metrics; sending some again is harmless."""
        ...

    async def end(self, remote_id: str, run: TrainingRun) -> None:
        """Says how the run has ended."""
        ...


@dataclass(frozen=True)
class Ports:
    """Everything the use cases need; made once, in `main.py`."""

    transactions: Transactions
    recipes: Repository[TuningRecipe]
    runs: Repository[TrainingRun]
    metrics: Repository[TrainingMetric]
    studies: Repository[Study]
    trials: Repository[StudyTrial]
    mirrored: Repository[Mirrored]
    announcements: Announcements
    models: Models
    datasets: Datasets
    files: Files
    children: Children
    wishes: Wishes
    search: Search
    work: Work
    notifier: Notifier
    clock: Clock
    new_id: Callable[[], str]
