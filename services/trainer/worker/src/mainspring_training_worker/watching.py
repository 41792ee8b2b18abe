"""Checks that need the model: what it has forgotten, what it knows by heart, whether it overfits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mainspring_training_worker import checks
from mainspring_training_worker.batches import Example
from mainspring_training_worker.checkpoint import State
from mainspring_training_worker.model import Tunable
from mainspring_training_worker.progress import Progress
from mainspring_training_worker.spec import Spec

_NEW_MODEL = "PRETRAINING"
"""It has nothing to forget."""


class Watch:
    """Looks at a run and tells what a person should know, each thing once."""

    def __init__(self, spec: Spec, model: Tunable, tokenizer: Any, progress: Progress) -> None:
        self._spec, self._model, self._tokenizer, self._progress = spec, model, tokenizer, progress
        self._padding = int(tokenizer.pad_token_id)
        self._general = checks.general_text(tokenizer)
        self._judges = model.predicts and spec.method != _NEW_MODEL

    def begin(self, state: State) -> None:
        """Measures what is to be compared at the end; a resumed run has it already."""
        if self._judges and state.general_loss is None:
            (state.general_loss,) = self._losses([self._general])

    def signal(self, state: State, name: str, message: str) -> None:
        """Tells something, unless it was told before."""
        told = {"name": name, "step": state.step, "message": message}
        if all((known["name"], known["message"]) != (name, message) for known in state.signals):
            state.signals.append(told)
            self._progress.tell("signal", **told)

    def validated(self, state: State, train_loss: float, loss: float | None) -> None:
        """Looks at a validation."""
        known = {signal["name"] for signal in state.signals}
        best = state.best_validation_loss
        if loss is None or best is None or "OVERFITTING" in known or not state.window_targets:
            return
        if checks.overfits(train_loss, loss, best, state.stale_validations):
            message = (
                f"the validation loss rose from {best:.3f} to {loss:.3f} while the training loss is {train_loss:.3f}"
            )
            self.signal(state, "OVERFITTING", message)

    def end(self, state: State) -> dict[str, float]:
        """Looks at the model as it is kept; what was measured, by name."""
        if not self._judges:
            return {}
        measured: dict[str, float] = {}
        if state.general_loss is not None:
            (after,) = self._losses([self._general])
            rise = 100 * (after / state.general_loss - 1)
            measured |= {"general_loss_before": state.general_loss, "general_loss_after": after}
            if rise > self._spec.checks.forgetting_budget_percent:
                budget = self._spec.checks.forgetting_budget_percent
                message = (
                    f"the loss on general text rose by {rise:.1f} %, and {budget:g} % are allowed; learn at a lower"
                )
                self.signal(state, "FORGETTING", f"{message} rate, for fewer steps, or replay older rows")
        for number, canary in enumerate(self._spec.checks.canaries):
            found = checks.canary_examples(self._tokenizer, canary, self._spec.optimization.seed)
            bits = checks.exposure(self._losses(found))
            measured[f"canary_{number}_exposure_bits"] = bits
            if bits == checks.exposure([0.0, *([1.0] * (len(found) - 1))]):
                message = f"canary {number} is likelier than all its {len(found) - 1} variants: it is known by heart"
                self.signal(state, "MEMORISATION", message)
        return measured

    def _losses(self, examples: Sequence[Example]) -> list[float]:
        """Mean loss a token of each."""
        self._model.module.eval()
        losses: list[float] = []
        with torch.no_grad():
            for example in examples:
                self._progress.tick()
                losses.append(self._model.loss_sum([example], self._padding).item() / example.targets)
        return losses
