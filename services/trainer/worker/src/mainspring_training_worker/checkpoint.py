"""Checkpoints: one safetensors file with everything that decides how a run goes on. No pickle.

Tensors are named `adapter/...` (the weights), `best/...` (those with the lowest validation loss, when they are others),
`first_moment/...` and `second_moment/...` (AdamW's), `rng` (torch's generator) and `rng_gpu` (that of a GPU).
All else is JSON in the file's metadata. A file is written under another name first, so it is whole or absent.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mainspring_training_worker.crash import crash_point

SCHEMA = "mainspring.training_checkpoint.v1"
_KEY = "mainspring"


@dataclass
class State:
    """Where a run stands, in plain values.

    Attributes:
        step: Optimiser steps done.
        tokens: Unpadded tokens learned from.
        validated_step: Step of the last validation; -1 before the first.
        initial_validation_loss: Before the first step; None without validation rows.
        best_step: Step with the lowest validation loss.
        best_validation_loss: That loss; None without validation rows.
        stale_validations: Validations since then.
        window_loss: Summed loss since the last metric.
        window_targets: Target tokens since then.
        curve: Metrics so far.
        rate_scale: What the learning rate is multiplied by; halved with each rollback.
        rollbacks: Times that the run went back since its loss had left all bounds.
        recent: Losses of the last steps.
        signals: What was told already; nothing is told twice.
        general_loss: Loss on a fixed text before the first step; None when it is not measured.
    """

    step: int = 0
    tokens: int = 0
    validated_step: int = -1
    initial_validation_loss: float | None = None
    best_step: int = 0
    best_validation_loss: float | None = None
    stale_validations: int = 0
    window_loss: float = 0.0
    window_targets: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    rate_scale: float = 1.0
    rollbacks: int = 0
    recent: list[float] = field(default_factory=list[float])
    signals: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    general_loss: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A run's state at the end of a step.

    Attributes:
        run: Resource name of the run; makes the file's bytes its own.
        plan_sha256: Digest of what is learned in which order; a checkpoint of another plan is of no use.
        precision: Precision of the base model; the rest of the run must have the same.
        state: Plain values.
        adapter: Weights.
        best: Weights with the lowest validation loss; the same object as `adapter` when those are they.
        moments: AdamW's moments by `first_moment/` or `second_moment/` and parameter name.
        rng: States of torch's generators, as `device.random_states` names them.
    """

    run: str
    plan_sha256: str
    precision: str
    state: State
    adapter: dict[str, Tensor]
    best: dict[str, Tensor]
    moments: dict[str, Tensor]
    rng: dict[str, Tensor]

    def write(self, path: Path) -> None:
        """Writes the file, whole, and brings it to the disk."""
        tensors = {f"adapter/{name}": tensor for name, tensor in self.adapter.items()} | self.moments
        if self.best is not self.adapter:
            tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        described = {
            "schema": SCHEMA,
            "run": self.run,
            "plan_sha256": self.plan_sha256,
            "precision": self.precision,
            "state": asdict(self.state),
        }
        partial = path.with_name(f".{path.name}.partial")
        metadata = {_KEY: json.dumps(described, sort_keys=True)}
        save_file({**tensors, **self.rng}, partial, metadata=metadata)
        crash_point("training-worker:mid-checkpoint")
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)

    @classmethod
    def read(cls, path: Path) -> Checkpoint | None:
        """The checkpoint in a file, or None when the file is not one."""
        try:
            with safe_open(path, framework="pt") as file:
                described = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping.
            if described["schema"] != SCHEMA:
                return None
            adapter, best = _below("adapter/", tensors), _below("best/", tensors)
            return cls(
                run=described["run"],
                plan_sha256=described["plan_sha256"],
                precision=described["precision"],
                state=State(**described["state"]),
                adapter=adapter,
                best=best or adapter,
                moments={name: tensor for name, tensor in tensors.items() if "_moment/" in name},
                rng={name: tensor for name, tensor in tensors.items() if name in ("rng", "rng_gpu")},
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def moments_of(optimizer: torch.optim.Optimizer, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's moments by name; empty before the first step."""
    moments: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        known = optimizer.state.get(parameter)
        if known:
            moments[f"first_moment/{name}"] = known["exp_avg"]
            moments[f"second_moment/{name}"] = known["exp_avg_sq"]
    return moments


def restore_moments(
    optimizer: torch.optim.Optimizer, parameters: dict[str, Tensor], moments: dict[str, Tensor], step: int
) -> None:
    """Puts the moments back, as they were after `step` steps."""
    for name, parameter in parameters.items():
        if f"first_moment/{name}" in moments:
            device = parameter.device
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=device),
                "exp_avg": moments[f"first_moment/{name}"].to(device),
                "exp_avg_sq": moments[f"second_moment/{name}"].to(device),
            }
