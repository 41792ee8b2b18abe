"""What the parent asks for. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

SCHEMA = "mainspring.training_spec.v1"
T = TypeVar("T")


class Refused(Exception):
    """The run cannot end; told to the parent as it is.

    Args:
        reason: Stable name, UPPER_SNAKE.
        message: What is wrong and what to do next.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


@dataclass(frozen=True)
class Lora:
    """Shape of the adapter (Hu et al. 2021, arXiv:2106.09685); see the contract's `LoraConfig`."""

    rank: int
    alpha: float
    dropout: float
    rank_stabilized: bool
    weight_decomposed: bool


@dataclass(frozen=True)
class Optimization:
    """How the loss is brought down; see the contract's message of the same name. Every value is set here."""

    learning_rate: float
    epochs: float
    batch_rows: int
    max_sequence_tokens: int
    warmup_percent: float
    validate_every_steps: int
    patience: int
    max_steps: int
    seed: int
    packing: bool


@dataclass(frozen=True)
class Preference:
    """How judgements are learned; see the contract's message of the same name."""

    beta: float
    desirable_weight: float
    undesirable_weight: float


@dataclass(frozen=True)
class Online:
    """How a model learns from rewards of its own answers; see the contract's message of the same name."""

    generations: int
    max_answer_tokens: int
    temperature: float
    beta: float
    rule: str
    judge_rubric: str


@dataclass(frozen=True)
class Distillation:
    """How a student learns from a teacher; see the contract's message of the same name."""

    source: str
    temperature: float
    divergence: float
    max_answer_tokens: int
    on_policy_share: float


@dataclass(frozen=True)
class Pretraining:
    """The model that is made from nothing; see the contract's message of the same name."""

    parameters: int
    vocabulary: int


@dataclass(frozen=True)
class Checks:
    """What is watched while the model learns; see the contract's message of the same name."""

    canaries: tuple[str, ...]
    max_rollbacks: int
    forgetting_budget_percent: float


@dataclass(frozen=True)
class Helper:
    """A model that teaches or judges.

    Attributes:
        base_model: Hugging Face folder.
        adapter: PEFT folder on it, or None.
    """

    base_model: Path
    adapter: Path | None


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a dataset version, and how many rows it must have."""

    path: Path
    rows: int


@dataclass(frozen=True)
class Parent:
    """The adapter to begin with.

    Attributes:
        adapter: PEFT folder.
        known: Shards of all splits of the dataset version that it learned from.
    """

    adapter: Path
    known: tuple[Shard, ...]


@dataclass(frozen=True)
class TeamSpec:
    """Several processes that learn a run together.

    Attributes:
        rank: Which of them this is; the first leads.
        size: How many they are.
        address: Where they meet, `host:port` on the leader's machine.
    """

    rank: int
    size: int
    address: str


@dataclass(frozen=True)
class Spec:
    """One run.

    Attributes:
        run: Its resource name.
        base_model_version: Resource name of the base; recorded in the adapter.
        base_model: Hugging Face folder of the base.
        method: How it learns, as in the contract without `METHOD_`.
        adaptation: What is changed: `LORA`, `QLORA` or `FULL`.
        train: Rows to learn from.
        validation: Rows that steer.
        helper: The teacher, or the model that gives rewards; None when the method has none.
        parent: What to begin with; None for a fresh adapter.
        replay_ratio: Known rows per new row, when there is a parent.
        max_validation_rows: More are not looked at; the choice is stable.
        resume_from: Checkpoint of an earlier try, or None.
        output: Folder for everything that is written.
        threads: Threads of a matrix product.
        precision: `fp32`, `bf16`, or `auto` for the faster of the two here.
        device: `cpu`, `cuda`, or `auto` for a GPU when there is one.
        micro_batch_tokens: Padded tokens that go through the model at once; bounds memory. 0 for what suits the device.
        progress_fd: File descriptor that takes the progress lines.
        parent_pid: Who started it; when that process is gone, nobody wants the result.
        team: Those who learn the run together; None for this process alone.
    """

    run: str
    base_model_version: str
    base_model: Path
    method: str
    adaptation: str
    train: tuple[Shard, ...]
    validation: tuple[Shard, ...]
    lora: Lora
    optimization: Optimization
    preference: Preference
    online: Online
    distillation: Distillation
    pretraining: Pretraining
    checks: Checks
    helper: Helper | None
    parent: Parent | None
    replay_ratio: float
    max_validation_rows: int
    resume_from: Path | None
    output: Path
    threads: int
    precision: str
    device: str
    micro_batch_tokens: int
    progress_fd: int
    parent_pid: int
    team: TeamSpec | None

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Reads a specification.

        Raises:
            ValueError: It is of another schema, or something in it is missing or unknown.
        """
        data: dict[str, Any] = json.loads(path.read_text())
        if data.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path} is not a {SCHEMA}; start the worker of the same release as the trainer")
        parent = data.pop("parent")
        helper = data.pop("helper")
        resume_from, team = data.pop("resume_from"), data.pop("team", None)
        return _build(
            cls,
            {
                **data,
                "base_model": Path(data["base_model"]),
                "output": Path(data["output"]),
                "train": _shards(data["train"]),
                "validation": _shards(data["validation"]),
                "lora": _build(Lora, data["lora"]),
                "optimization": _build(Optimization, data["optimization"]),
                "preference": _build(Preference, data["preference"]),
                "online": _build(Online, data["online"]),
                "distillation": _build(Distillation, data["distillation"]),
                "pretraining": _build(Pretraining, data["pretraining"]),
                "checks": _build(Checks, {**data["checks"], "canaries": tuple(data["checks"]["canaries"])}),
                "helper": _helper(helper) if helper else None,
                "parent": Parent(Path(parent["adapter"]), _shards(parent["known"])) if parent else None,
                "resume_from": Path(resume_from) if resume_from else None,
                "team": _build(TeamSpec, team) if team else None,
            },
        )


def _helper(item: Mapping[str, Any]) -> Helper:
    return Helper(Path(item["base_model"]), Path(item["adapter"]) if item["adapter"] else None)


def _shards(items: list[dict[str, Any]]) -> tuple[Shard, ...]:
    return tuple(Shard(Path(item["path"]), int(item["rows"])) for item in items)


def _build(kind: type[T], data: Mapping[str, Any]) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if known != set(data):
        raise ValueError(f"{kind.__name__}: missing {sorted(known - set(data))}, unknown {sorted(set(data) - known)}")
    return kind(**data)
