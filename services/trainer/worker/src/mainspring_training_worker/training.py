"""The loop: steps, validations, checkpoints; a function of the specification and nothing else.

It is a loop of our own on PEFT and torch rather than TRL's SFTTrainer, for two measured reasons. On a CPU, SFTTrainer
projects every position onto the vocabulary, where here only the answers' positions are. And its checkpoints are pickles
that resume at the bounds of an epoch's data loader; here one safetensors file at any step continues bit by bit.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mainspring_training_worker import checks
from mainspring_training_worker.batches import Example, Plan, learning_rate
from mainspring_training_worker.checkpoint import Checkpoint, State, moments_of, restore_moments
from mainspring_training_worker.crash import crash_point
from mainspring_training_worker.device import on_gpu, random_states, restore_random_states
from mainspring_training_worker.fitting import LEARNS_TEXT, draws_answers
from mainspring_training_worker.methods.base import Objective
from mainspring_training_worker.model import Tunable
from mainspring_training_worker.progress import Progress
from mainspring_training_worker.spec import Refused, Spec
from mainspring_training_worker.team import Diverged, Stopped, Team
from mainspring_training_worker.watching import Watch

_MAX_GRADIENT_NORM = 1.0
_METRICS = 1_000
"""At most so many metrics a run, beside those of validations: one a step, unless a run is longer."""


class Training:
    """A run in progress."""

    def __init__(
        self,
        spec: Spec,
        model: Tunable,
        plan: Plan,
        validation: Sequence[Example],
        *,
        objective: Objective,
        watch: Watch,
        team: Team,
        precision: str,
        progress: Progress,
        stopping: Callable[[], bool],
    ) -> None:
        """Takes everything that the loop needs.

        Args:
            spec: What is asked for.
            model: The model with its adapter.
            plan: What is learned in which order.
            validation: Examples that steer; none means that the last step is kept.
            objective: The loss.
            watch: Looks for what a person should know.
            team: Those who learn the run together.
            precision: The base model's, for checkpoints.
            progress: Where to tell.
            stopping: Whether the parent has asked to stop.
        """
        self._spec, self._model, self._plan, self._validation = spec, model, plan, validation
        self._objective, self._precision, self._progress, self._stopping = objective, precision, progress, stopping
        self._watch, self._team, self._last = watch, team, spec.output / "last.safetensors"
        self._optimizer = torch.optim.AdamW(
            model.parameters.values(), weight_decay=0.0, fused=True if on_gpu(model.device) else None
        )
        # At answers that the model gives by itself, a loss may well be another than at the rows' own.
        self._minds_leaps = spec.method in LEARNS_TEXT and not draws_answers(spec)
        self._metric_every = max(1, math.ceil(plan.steps / _METRICS))
        self._window_began = time.monotonic()
        self._window_tokens = 0
        self._best: dict[str, Tensor] | None = None
        self.seconds = {"steps": 0.0, "validations": 0.0, "checkpoints": 0.0}
        self.state = State()
        self.plan_sha256 = _digest(plan, validation)

    @property
    def stopped_early(self) -> bool:
        """Whether validation has stopped improving."""
        return self.state.stale_validations >= self._spec.optimization.patience and self.state.step < self._plan.steps

    def best(self) -> dict[str, Tensor]:
        """The weights to keep."""
        return self._best if self._best is not None else self._model.weights()

    def signal(self, name: str, message: str) -> None:
        """Tells what a person should know, unless it was told before."""
        self._watch.signal(self.state, name, message)

    def release(self) -> None:
        """Lets go of the model and the optimiser, which take most of the memory."""
        del self._model, self._optimizer, self._objective, self._watch

    def resume(self, checkpoint: Checkpoint) -> bool:
        """Goes back to a checkpoint; False when it is not one of this run's plan."""
        if (checkpoint.plan_sha256, checkpoint.precision) != (self.plan_sha256, self._precision):
            return False
        self._restore(checkpoint)
        return True

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.state = checkpoint.state
        self._model.load(checkpoint.adapter)
        self._best = {name: tensor.clone().to(self._model.device) for name, tensor in checkpoint.best.items()}
        self._optimizer.state.clear()
        restore_moments(self._optimizer, self._model.parameters, checkpoint.moments, self.state.step)
        restore_random_states(checkpoint.rng, self._model.device)

    def run(self) -> dict[str, float]:
        """Learns to the end; returns what was measured of the model that is kept, which is in memory then.

        Raises:
            Refused: DIVERGED.
            Stopped: The parent asked to stop; a checkpoint is written.
        """
        self._watch.begin(self.state)
        if self.state.step and self._spec.resume_from is not None:
            shutil.copyfile(self._spec.resume_from, self._last)
        else:
            self._snapshot().write(self._last)
        try:
            while not self._done():
                try:
                    self._advance()
                except Diverged as cause:
                    self._go_back(str(cause))
        except Stopped:
            self._checkpoint()
            raise
        self._model.load(self.best())
        return self._watch.end(self.state)

    def _done(self) -> bool:
        """Whether all steps are done and what they made was validated."""
        state = self.state
        validated = not self._plan.validates_at(state.step) or state.validated_step == state.step
        return validated and (state.step >= self._plan.steps or self.stopped_early)

    def _advance(self) -> None:
        """One validation with its checkpoint, or one step."""
        state = self.state
        if not self._plan.validates_at(state.step) or state.validated_step == state.step:
            return self._timed("steps", self._step)
        self._timed("validations", self._validate)
        return self._timed("checkpoints", self._checkpoint) if state.step else None

    def _timed(self, what: str, action: Callable[[], None]) -> None:
        began = time.monotonic()
        action()
        self.seconds[what] += time.monotonic() - began

    def _go_back(self, why: str) -> None:
        """Returns to the last checkpoint with half the rate.

        Raises:
            Refused: DIVERGED, it has done so often enough.
        """
        at, rollbacks, scale, signals = self.state.step, self.state.rollbacks, self.state.rate_scale, self.state.signals
        last = Checkpoint.read(self._last)
        if last is None or rollbacks >= self._spec.checks.max_rollbacks:
            message = f"{why} at step {at + 1}, after {rollbacks} returns to a checkpoint; lower"
            raise Refused("DIVERGED", f"{message} optimization.learning_rate")
        self._optimizer.zero_grad()
        self._restore(last)
        state = self.state
        state.rollbacks, state.rate_scale, state.signals = rollbacks + 1, scale / 2, signals
        message = f"{why} at step {at + 1}; back at step {state.step} with {state.rate_scale:g} times the rate"
        self._watch.signal(state, "DIVERGENCE", message)
        self._checkpoint()

    def _step(self) -> None:
        state = self.state
        examples = self._plan.step_examples(state.step)
        rate = self._rate(state.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        objective = self._objective
        targets = sum(objective.weight(example) for example in examples)
        rng = random_states(self._model.device)
        self._team.begin(self._spec.optimization.seed, state.step)
        self._model.module.train()
        try:
            total = self._total(examples, self._spec.micro_batch_tokens, lambda loss: (loss / targets).backward())
        except Stopped:
            # The checkpoint is of the step before, with the generator as that step left it.
            restore_random_states(rng, self._model.device)
            raise
        self._team.add_gradients(self._model.parameters.values())
        crash_point("training-worker:mid-step")
        if self._minds_leaps:
            if checks.spikes(total / targets, state.recent):
                raise Diverged(f"the loss leapt to {total / targets:.2f}")
            state.recent = [*state.recent, total / targets][-checks.RECENT_STEPS :]
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters.values(), _MAX_GRADIENT_NORM)
        self._finite(norm.item())
        self._optimizer.step()
        self._optimizer.zero_grad()
        tokens = sum(example.size for example in examples)
        state.step += 1
        state.tokens += tokens
        state.window_loss += total
        state.window_targets += targets
        self._window_tokens += tokens
        if state.step % self._metric_every == 0 and not self._plan.validates_at(state.step):
            self._metric(rate, None, self._objective.measures())

    def _validate(self) -> None:
        state = self.state
        measures = self._objective.measures()
        loss = self._validation_loss() if self._validation else None
        crash_point("training-worker:mid-validation")
        measures |= {f"validation_{name}": value for name, value in self._objective.measures().items()}
        state.validated_step = state.step
        if state.step == 0:
            state.initial_validation_loss = loss
        if loss is None or state.best_validation_loss is None or loss < state.best_validation_loss:
            state.best_step, state.best_validation_loss, state.stale_validations = state.step, loss, 0
            self._best = {name: tensor.clone() for name, tensor in self._model.weights().items()}
        else:
            state.stale_validations += 1
        train_loss = state.window_loss / state.window_targets if state.window_targets else 0.0
        self._watch.validated(state, train_loss, loss)
        self._metric(self._rate(max(0, state.step - 1)), loss, measures)

    def _rate(self, step: int) -> float:
        settings = self._spec.optimization
        rate = learning_rate(
            step, self._plan.steps, peak=settings.learning_rate, warmup_percent=settings.warmup_percent
        )
        return rate * self.state.rate_scale

    def _validation_loss(self) -> float:
        self._model.module.eval()
        with torch.no_grad():
            # Without gradients twice as many tokens fit.
            total = self._total(self._validation, 2 * self._spec.micro_batch_tokens, lambda _: None)
        return total / sum(self._objective.weight(example) for example in self._validation)

    def _total(self, examples: Sequence[Example], max_tokens: int, each: Callable[[Tensor], None]) -> float:
        """The summed loss of the examples, of which this process computes its share.

        Raises:
            Stopped: The parent asked to stop.
            Diverged: A loss is no number.
        """
        total, ended = 0.0, None
        try:
            for group in self._objective.groups(self._team.share(examples), max_tokens):
                self._breathe()
                loss = self._objective.loss_sum(group)
                total += self._finite(loss.item())
                each(loss)
        except (Stopped, Diverged) as cause:
            ended = cause
        return self._team.total(total, ended)

    def _metric(self, rate: float, validation_loss: float | None, measures: dict[str, float]) -> None:
        state = self.state
        now = time.monotonic()
        metric: dict[str, Any] = {
            "step": state.step,
            "epoch": state.step * self._plan.batch_rows / self._plan.epoch_rows,
            "train_loss": state.window_loss / state.window_targets if state.window_targets else 0.0,
            "validation_loss": validation_loss,
            "learning_rate": rate,
            "measures": measures,
        }
        speed = self._window_tokens / max(now - self._window_began, 1e-9)
        self._progress.tell("metric", **metric, tokens_per_second=speed)
        state.curve.append(metric)
        state.window_loss, state.window_targets = 0.0, 0
        self._window_tokens, self._window_began = 0, now

    def _snapshot(self) -> Checkpoint:
        adapter, state = self._model.weights(), self.state
        kept_is_current = self._best is None or state.best_step == state.step
        return Checkpoint(
            run=self._spec.run,
            plan_sha256=self.plan_sha256,
            precision=self._precision,
            state=state,
            adapter=adapter,
            best=adapter if kept_is_current else self.best(),
            moments=moments_of(self._optimizer, self._model.parameters),
            rng=random_states(self._model.device),
        )

    def _checkpoint(self) -> None:
        if not self._team.leads:
            return self._snapshot().write(self._last)
        name = f"checkpoint-{self.state.step:08}.safetensors"
        path = self._spec.output / name
        self._snapshot().write(path)
        # A second name, since the parent takes the first one away.
        self._last.unlink(missing_ok=True)
        os.link(path, self._last)
        crash_point("training-worker:checkpoint-written")
        return self._progress.tell("checkpoint", step=self.state.step, file=name)

    def _breathe(self) -> None:
        self._progress.tick()
        if self._stopping():
            raise Stopped

    def _finite(self, value: float) -> float:
        if math.isfinite(value):
            return value
        raise Diverged("the loss is no longer a number")


def _digest(plan: Plan, validation: Sequence[Example]) -> str:
    """Names what is learned, in which order, and what steers it."""
    hasher = hashlib.sha256(f"{plan.batch_rows} {plan.steps} {plan.validate_every_steps}\n".encode())
    for example in (*plan.order, *validation):
        hasher.update(f"{example.row_id} {example.size}\n".encode())
    return hasher.hexdigest()
