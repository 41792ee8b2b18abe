"""The use case of doing a run: a process computes, this follows it and keeps what it makes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mainspring_svckit.errors import InsufficientStorage, MainspringError, PreconditionFailed, Unavailable
from mainspring_svckit.names import TrainingRunName
from mainspring_svckit.ports import Claim
from mainspring_svckit.repository import require
from mainspring_svckit.values import ArtifactRef
from mainspring_trainer.application import inputs
from mainspring_trainer.application.grouping import grouped
from mainspring_trainer.application.inputs import Compute
from mainspring_trainer.application.policy import Policy
from mainspring_trainer.application.ports import Child, Ports, Told
from mainspring_trainer.application.runs import STUDY_KIND, TIDY_KIND, WATCH
from mainspring_trainer.domain.results import media_types
from mainspring_trainer.domain.runs import (
    RUN_STATES,
    Checkpoint,
    Inputs,
    RunState,
    TrainingMetric,
    TrainingResult,
    TrainingRun,
)
from mainspring_trainer.domain.tracking import Fingerprint, RunSignal, SystemMetric, Usage, model_digest


class Training:
    """Does runs, one process each."""

    def __init__(self, ports: Ports, compute: Compute, policy: Policy) -> None:
        self._ports, self._compute, self._policy = ports, compute, policy

    async def run(self, name: str, lease: Claim) -> None:
        """Does a run, from its newest checkpoint if it has one. Cancelling this stops the process: with a checkpoint
        when the lease is still ours, at once when it is lost.

        Raises:
            MainspringError: The run cannot end, or (`Unavailable`) another try may help.
        """
        try:
            run = await self._take(name, lease)
            if run.state is RunState.PAUSED:
                return
            spec = await inputs.fetch(self._ports, run, _inputs_of(run), self._compute)
            async with self._ports.children.start(name, spec) as child:
                await self._tend(run, child, lease)
        except Unavailable:
            await self._give_back(name, lease)
            raise
        except InsufficientStorage as err:
            await self._hold(name, err, lease)

    async def _take(self, name: str, lease: Claim) -> TrainingRun:
        ports = self._ports
        async with ports.transactions.transaction():
            wished = (await require(ports.runs, "TrainingRun", name)).value.pause_requested
        if wished:
            return await self._pause(name, lease)
        async with lease.transaction():
            run = (await require(ports.runs, "TrainingRun", name, lock=True)).value.taken(ports.clock.now())
            run = await self._put(run)
        if run.inputs is None:
            run = await self._save(replace(run, inputs=await inputs.look_up(ports, run)), lease)
        if run.fingerprint is None:
            run = await self._save(replace(run, fingerprint=await self._fingerprint(_inputs_of(run))), lease)
        return run

    async def _fingerprint(self, made_from: Inputs) -> Fingerprint:
        parent = made_from.parent
        adapter = (parent.adapter_config, parent.adapter_weights) if parent is not None else ()
        return Fingerprint(
            data_sha256=made_from.dataset.root_sha256,
            model_sha256=model_digest(made_from.base_files, *adapter),
            environment=await self._ports.children.environment(),
        )

    async def _tend(self, run: TrainingRun, child: Child, lease: Claim) -> None:
        """Follows the process. When the run is to be paused, or this is cancelled, has it write a checkpoint first."""
        following = asyncio.ensure_future(self._follow(run, child, lease))
        wished = asyncio.ensure_future(self._ports.wishes.pause(run.name))
        try:
            await asyncio.wait({following, wished}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                await wished
                await child.stop()
                if not await asyncio.shield(following):
                    await self._pause(run.name, lease)
            elif not await following:
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
            for task in (following, wished):
                task.cancel()
            await asyncio.gather(following, wished, return_exceptions=True)

    async def _follow(self, run: TrainingRun, child: Child, lease: Claim) -> bool:
        """Keeps what the process tells until it ends; returns whether it told a result."""
        before, finished = run.usage, False
        async for group in grouped(child.told(), "metric"):
            told = group[0]
            match told["type"]:
                case "phase":
                    run = await self._save(run.at(str(told["phase"])), lease)
                case "plan":
                    run = await self._save(run.planned(int(told["steps"]), str(told["precision"])), lease)
                case "metric":
                    run = await self._measured(run, group, child, before, lease)
                case "signal":
                    signal = RunSignal(
                        str(told["name"]), int(told["step"]), str(told["message"]), self._ports.clock.now()
                    )
                    run = await self._save(run.signalled(signal), lease)
                case "checkpoint":
                    run = await self._checkpointed(run, told, child, lease)
                case "result":
                    await self._succeed(run, told, child, before, lease)
                    finished = True
                case unknown:
                    message = f"the training process said {unknown!r}; install the worker of the trainer's release"
                    raise PreconditionFailed("WORKER_UNKNOWN", message)
        return finished

    async def _measured(
        self, run: TrainingRun, group: list[Told], child: Child, before: Usage, lease: Claim
    ) -> TrainingRun:
        consumed, tokens = child.consumed(), run.usage.tokens
        metrics = [self._metric(run, told, consumed.now) for told in group]
        # Those of one group have one time, so only the last says how fast the run is.
        last, newest = run.latest_metric, metrics[-1]
        if last is not None and newest.step > last.step:
            speed = sum(metric.tokens_per_second for metric in metrics) / len(metrics)
            tokens += round(speed * (newest.time - last.time).total_seconds())
        run = run.measured(newest)
        run = replace(run, usage=replace(before.plus(consumed, self._policy.rates), tokens=tokens))
        async with lease.transaction():
            for metric in metrics:
                await self._ports.metrics.put(metric)
            await self._mirror(run)
            if run.study and any(metric.validation_loss is not None for metric in metrics):
                await self._ports.work.enqueue(STUDY_KIND, run.study, coalesce=True)
            return await self._put(run)

    def _metric(self, run: TrainingRun, told: Told, system: SystemMetric | None) -> TrainingMetric:
        step = int(told["step"])
        return TrainingMetric(
            name=f"{run.name}/metrics/{step}",
            run=run.name,
            step=step,
            epoch=float(told["epoch"]),
            train_loss=float(told["train_loss"]),
            validation_loss=told["validation_loss"],
            learning_rate=float(told["learning_rate"]),
            tokens_per_second=float(told["tokens_per_second"]),
            time=self._ports.clock.now(),
            system=system,
            measures={str(name): float(value) for name, value in told.get("measures", {}).items()},
        )

    async def _checkpointed(self, run: TrainingRun, told: Told, child: Child, lease: Claim) -> TrainingRun:
        project = TrainingRunName.parse(run.name).project
        path = _inside(child.output, str(told["file"]))
        file = await self._ports.files.put_file(project, path, media_type="application/vnd.safetensors")
        run, needless = run.saved(Checkpoint(int(told["step"]), file), self._policy.kept_checkpoints)
        run = await self._save(run, lease)
        path.unlink()
        for old in needless:
            await self._ports.files.discard(project, old.file)
        return run

    async def _succeed(self, run: TrainingRun, told: Told, child: Child, before: Usage, lease: Claim) -> None:
        ports = self._ports
        project = TrainingRunName.parse(run.name).project
        files: Mapping[str, str] = told["files"]
        artifacts: dict[str, ArtifactRef] = {}
        for role, media_type in media_types(files).items():
            path = _inside(child.output, files[role])
            artifacts[role] = await ports.files.put_file(project, path, media_type=media_type)
        result = _result(told, artifacts)
        usage = before.plus(child.consumed(), self._policy.rates)
        # Only a run that was done in one go knows; of others what was done again is estimated.
        tokens = result.tokens if run.attempt == 1 else max(run.usage.tokens, result.tokens)
        run = replace(run, usage=replace(usage, tokens=tokens))
        run = run.succeeded(result, ports.clock.now())
        async with lease.complete():
            await self._put(run)
            await ports.work.enqueue(TIDY_KIND, run.name, delay_s=self._policy.checkpoint_retention_s)
            await self._mirror(run)
            # What a trial makes becomes a version when its study says so.
            if run.study:
                await ports.work.enqueue(STUDY_KIND, run.study, coalesce=True)
            else:
                await ports.announcements.run_succeeded(run)

    async def _give_back(self, name: str, lease: Claim) -> None:
        with suppress(MainspringError):
            async with lease.transaction():
                run = (await require(self._ports.runs, "TrainingRun", name, lock=True)).value
                await self._put(run.given_back())

    async def _pause(self, name: str, lease: Claim) -> TrainingRun:
        """Ends our part of a run that somebody wants paused, unless they have changed their mind."""
        async with lease.complete():
            run = (await require(self._ports.runs, "TrainingRun", name, lock=True)).value
            if not run.pause_requested:
                raise Unavailable("RESUMED", f"{name} was resumed before it was paused")
            run = run.paused()
            await self._ports.runs.put(run)
            await self._ports.notifier.notify(WATCH, name)
        return run

    async def _hold(self, name: str, err: InsufficientStorage, lease: Claim) -> None:
        """Pauses a run that has no space for what it makes: hours of work are not lost for a full disk."""
        async with lease.complete():
            run = (await require(self._ports.runs, "TrainingRun", name, lock=True)).value
            message = f"{err.message}; the run is paused: resume it when there is some"
            signal = RunSignal(err.reason, run.progress.done, message, self._ports.clock.now())
            await self._ports.runs.put(run.signalled(signal).paused())
            await self._ports.notifier.notify(WATCH, name)

    async def _mirror(self, run: TrainingRun) -> None:
        for kind in self._policy.mirrors:
            await self._ports.work.enqueue(kind, run.name, coalesce=True)

    async def _save(self, run: TrainingRun, lease: Claim) -> TrainingRun:
        async with lease.transaction():
            return await self._put(run)

    async def _put(self, run: TrainingRun) -> TrainingRun:
        """Keeps the run as its process made it, with what people have asked for meanwhile."""
        stored = (await require(self._ports.runs, "TrainingRun", run.name, lock=True)).value
        if not RUN_STATES.ended(run.state):
            run = run.wished_as(stored)
        await self._ports.runs.put(run)
        await self._ports.notifier.notify(WATCH, run.name)
        return run


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
