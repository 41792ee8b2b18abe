"""The fakes of this service's own ports; each passes the contract suite of its port."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainspring_svckit.errors import (
    Unavailable,
)
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.fakes import (
    FakeArtifacts,
)
from mainspring_trainer.application.ports import ModelVersion, Told
from mainspring_trainer.domain.runs import Dataset, RunState, TrainingMetric, TrainingRun
from mainspring_trainer.domain.tracking import Consumption, Environment, SystemMetric


class FakeFiles(FakeArtifacts):
    """`Files` in a dictionary and a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    async def fetch(self, project: str, artifact: ArtifactRef) -> Path:
        path = self.folder / artifact.sha256
        path.write_bytes(await self.read(project, artifact))
        return path

    async def fetch_folder(self, project: str, files: Mapping[str, ArtifactRef]) -> Path:
        identity = repr(sorted((name, artifact.sha256) for name, artifact in files.items()))
        folder = self.folder / hashlib.sha256(identity.encode()).hexdigest()
        for name, artifact in files.items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{name!r} is no name of a file")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(await self.read(project, artifact))
        return folder


@dataclass
class FakeModels:
    known: dict[str, ModelVersion] = field(default_factory=dict[str, ModelVersion])
    away: bool = False

    async def version(self, name: str) -> ModelVersion | None:
        if self.away:
            raise Unavailable("SERVICE_UNAVAILABLE", "away")
        return self.known.get(name)


@dataclass
class FakeDatasets:
    known: dict[str, Dataset] = field(default_factory=dict[str, Dataset])

    async def version(self, name: str) -> Dataset | None:
        return self.known.get(name)


CONSUMED = Consumption(cpu_s=7200.0, wall_s=3600.0, peak_memory_bytes=2000, now=SystemMetric(200.0, 1000))


@dataclass
class FakeChild:
    """A process that tells what it was given; an exception among the lines is raised."""

    output: Path
    lines: list[Told | Exception]
    on_stop: list[Told] = field(default_factory=list[Told])
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def told(self) -> AsyncIterator[Told]:
        for line in self.lines:
            if isinstance(line, Exception):
                raise line
            if line["type"] == "wait":
                await self.stopped.wait()
                for last in self.on_stop:
                    yield last
                return
            yield line

    async def stop(self) -> None:
        self.stopped.set()

    def consumed(self) -> Consumption:
        return CONSUMED


@dataclass
class FakeChildren:
    output: Path
    lines: list[Told | Exception] = field(default_factory=list[Told | Exception])
    on_stop: list[Told] = field(default_factory=list[Told])
    specs: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    children: list[FakeChild] = field(default_factory=list[FakeChild])

    @asynccontextmanager
    async def start(self, name: str, spec: Mapping[str, Any]) -> AsyncIterator[FakeChild]:
        self.specs.append(spec)
        self.children.append(FakeChild(self.output, list(self.lines), list(self.on_stop)))
        yield self.children[-1]

    async def environment(self) -> Environment:
        return Environment("code", "packages", {"torch": "2"})


@dataclass
class FakeWishes:
    """Somebody who may want a run paused."""

    paused: asyncio.Event = field(default_factory=asyncio.Event)

    async def pause(self, name: str) -> None:
        await self.paused.wait()


@dataclass
class FakeTracker:
    away: bool = False
    begun: list[str] = field(default_factory=list[str])
    steps: list[int] = field(default_factory=list[int])
    ended: list[RunState] = field(default_factory=list[RunState])

    async def begin(self, run: TrainingRun) -> str:
        self._answer()
        self.begun.append(run.name)
        return "remote"

    async def add(self, remote_id: str, metrics: list[TrainingMetric]) -> None:
        self._answer()
        assert remote_id == "remote"
        self.steps += [metric.step for metric in metrics]

    async def end(self, remote_id: str, run: TrainingRun) -> None:
        self._answer()
        self.ended.append(run.state)

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("TRACKER_UNAVAILABLE", "away")
