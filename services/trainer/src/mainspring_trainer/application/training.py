"""The use case of doing a run: a process computes, this follows it and keeps what it makes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mainspring_svckit.errors import MainspringError, PreconditionFailed, Unavailable
from mainspring_svckit.names import TrainingRunName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef
from mainspring_trainer.application import inputs
from mainspring_trainer.application.inputs import Compute
from mainspring_trainer.application.ports import Child, Ports, Told
from mainspring_trainer.application.runs import TIDY_KIND, WATCH
from mainspring_trainer.domain.runs import Checkpoint, Inputs, TrainingMetric, TrainingResult, TrainingRun

ROLES = {
    "adapter/adapter_model.safetensors": "application/vnd.safetensors",
    "adapter/adapter_config.json": "application/json",
    "adapter.gguf": "application/vnd.gguf",
    "fidelity_probe.json": "application/json",
    "training_report.json": "application/json",
}
"""The files that every run makes, and their media types."""


class Training:
    """Does runs, one process each."""

    def __init__(self, ports: Ports, compute: Compute) -> None:
        self._ports, self._compute = ports, compute

    async def run(self, name: str, lease: Claim) -> None:
        """Does a run, from its newest checkpoint if it has one. Cancelling this stops the process: with a checkpoint
        when the lease is still ours, at once when it is lost.

        Raises:
            MainspringError: The run cannot end, or (`Unavailable`) another try may help.
        """
        try:
            run = await self._take(name, lease)
            spec = await inputs.fetch(self._ports, run, _inputs_of(run), self._compute)
            async with self._ports.children.start(name, spec) as child:
                await self._tend(run, child, lease)
        except Unavailable:
            await self._give_back(name, lease)
            raise

    async def _take(self, name: str, lease: Claim) -> TrainingRun:
        ports = self._ports
        async with lease.transaction():
            run = (await require(ports.runs, "TrainingRun", name, lock=True)).value.taken(ports.clock.now())
            await self._put(run)
        if run.inputs is None:
            run = await self._save(replace(run, inputs=await inputs.look_up(ports, run)), lease)
        return run

    async def _tend(self, run: TrainingRun, child: Child, lease: Claim) -> None:
        """Follows the process; when this is cancelled, has it write a checkpoint first."""
        following = asyncio.ensure_future(self._follow(run, child, lease))
        try:
            if not await asyncio.shield(following):
                message = f"the training process of {run.name} ended without a result"
                raise Unavailable("WORKER_CRASHED", message)
        except asyncio.CancelledError:
            with suppress(MainspringError):
                async with lease.transaction():
                    pass  # Raises when the lease is lost; then nobody wants a checkpoint from us.
                await child.stop()
                await following
                await self._give_back(run.name, lease)
            raise
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, run: TrainingRun, child: Child, lease: Claim) -> bool:
        """Keeps what the process tells until it ends; returns whether it told a result."""
        finished = False
        async for told in child.told():
            match told["type"]:
                case "phase":
                    run = await self._save(run.at(str(told["phase"])), lease)
                case "plan":
                    run = await self._save(run.planned(int(told["steps"]), str(told["precision"])), lease)
                case "metric":
                    run = await self._measured(run, told, lease)
                case "checkpoint":
                    run = await self._checkpointed(run, told, child, lease)
                case "result":
                    await self._succeed(run, told, child, lease)
                    finished = True
                case unknown:
                    message = f"the training process said {unknown!r}; install the worker of the trainer's release"
                    raise PreconditionFailed("WORKER_UNKNOWN", message)
        return finished

    async def _measured(self, run: TrainingRun, told: Told, lease: Claim) -> TrainingRun:
        step = int(told["step"])
        metric = TrainingMetric(
            name=f"{run.name}/metrics/{step}",
            run=run.name,
            step=step,
            epoch=float(told["epoch"]),
            train_loss=float(told["train_loss"]),
            validation_loss=told["validation_loss"],
            learning_rate=float(told["learning_rate"]),
            tokens_per_second=float(told["tokens_per_second"]),
            time=self._ports.clock.now(),
        )
        run = run.measured(metric)
        async with lease.transaction():
            await self._ports.metrics.put(metric)
            await self._put(run)
        return run

    async def _checkpointed(self, run: TrainingRun, told: Told, child: Child, lease: Claim) -> TrainingRun:
        project = TrainingRunName.parse(run.name).project
        path = _inside(child.output, str(told["file"]))
        file = await self._ports.files.put_file(project, path, media_type="application/vnd.safetensors")
        run, needless = run.saved(Checkpoint(int(told["step"]), file))
        await self._save(run, lease)
        path.unlink()
        for old in needless:
            await self._ports.files.discard(project, old.file)
        return run

    async def _succeed(self, run: TrainingRun, told: Told, child: Child, lease: Claim) -> None:
        ports = self._ports
        project = TrainingRunName.parse(run.name).project
        files: Mapping[str, str] = told["files"]
        if set(files) != set(ROLES):
            message = f"the training process made {sorted(files)}; install the worker of the trainer's release"
            raise PreconditionFailed("WORKER_UNKNOWN", message)
        artifacts: dict[str, ArtifactRef] = {}
        for role, media_type in ROLES.items():
            path = _inside(child.output, files[role])
            artifacts[role] = await ports.files.put_file(project, path, media_type=media_type)
        run = run.succeeded(_result(told, artifacts), ports.clock.now())
        async with lease.complete():
            await self._put(run)
            await ports.work.enqueue(TIDY_KIND, run.name)
            await ports.announcements.run_succeeded(run)

    async def _give_back(self, name: str, lease: Claim) -> None:
        with suppress(MainspringError):
            async with lease.transaction():
                run = (await require(self._ports.runs, "TrainingRun", name, lock=True)).value
                await self._put(run.given_back())

    async def _save(self, run: TrainingRun, lease: Claim) -> TrainingRun:
        async with lease.transaction():
            await self._put(run)
        return run

    async def _put(self, run: TrainingRun) -> None:
        await self._ports.runs.put(run)
        await self._ports.notifier.notify(WATCH, run.name)


def _inputs_of(run: TrainingRun) -> Inputs:
    assert run.inputs is not None
    return run.inputs


def _result(told: Told, artifacts: Mapping[str, ArtifactRef]) -> TrainingResult:
    values: Mapping[str, Any] = told
    return TrainingResult(
        artifacts=artifacts,
        best_step=int(values["best_step"]),
        best_validation_loss=float(values["best_validation_loss"] or 0.0),
        initial_validation_loss=float(values["initial_validation_loss"] or 0.0),
        steps=int(values["steps"]),
        tokens=int(values["tokens"]),
        stopped_early=bool(values["stopped_early"]),
        rows_too_long=int(values["rows_too_long"]),
    )


def _inside(folder: Path, name: str) -> Path:
    """The file of that name below the folder; a process cannot make us store any other."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise PreconditionFailed("WORKER_UNKNOWN", f"the training process named a file outside its folder: {name!r}")
    return path
