"""Learning a teacher's distributions: generalised knowledge distillation (Agarwal et al. 2023, arXiv:2306.13649)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mainspring_training_worker.batches import Example, micro_batches
from mainspring_training_worker.device import padded
from mainspring_training_worker.methods import trl_trainers
from mainspring_training_worker.methods.helpers import load_teacher
from mainspring_training_worker.model import Tunable
from mainspring_training_worker.spec import Spec

_UNSEEN = -100
"""Stands for a token that no loss is of, in torch's and TRL's eyes."""


class Distilled:
    """`Objective`: TRL's Jensen-Shannon divergence from the teacher at the answers' positions, per target token."""

    def __init__(self, trainer: Any, padding: int, device: torch.device) -> None:
        self._trainer, self._padding, self._device = trainer, padding, device

    def weight(self, example: Example) -> int:
        return example.targets

    def groups(self, examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
        return micro_batches(examples, max_tokens)

    def loss_sum(self, group: Sequence[Example]) -> Tensor:
        tokens, seen = padded([example.tokens for example in group], self._padding, self._device)
        wanted = [(*[_UNSEEN] * example.answer_start, *example.answer) for example in group]
        labels, _ = padded(wanted, _UNSEEN, self._device)
        given = {"input_ids": tokens, "attention_mask": seen, "labels": labels}
        loss: Tensor = self._trainer.compute_loss(self._trainer.model, given)
        return loss * sum(example.targets for example in group)

    def measures(self) -> dict[str, float]:
        return {}


def distillation_objective(spec: Spec, model: Tunable, tokenizer: Any) -> Distilled:
    """The objective of METHOD_DISTILLATION from logits."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    assert spec.helper is not None
    wanted = spec.distillation
    own = trl_trainers.arguments(
        str(spec.output),
        model.device,
        beta=wanted.divergence,
        temperature=wanted.temperature,
        lmbda=0.0,
        seed=spec.optimization.seed,
    )
    trainer: Any = GKDTrainer(
        model=model.module,
        teacher_model=load_teacher(spec.helper, "fp32", tokenizer, model.device),
        args=GKDConfig(**own),
        train_dataset=trl_trainers.placeholder({"messages": [{"role": "user", "content": "a"}]}),
        processing_class=tokenizer,
    )
    return Distilled(trainer, int(tokenizer.pad_token_id), model.device)
