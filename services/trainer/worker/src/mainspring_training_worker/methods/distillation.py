"""Learning a teacher's distributions: generalised knowledge distillation (Agarwal et al. 2023, arXiv:2306.13649).

They are compared at the rows' own answers, or, for the share of micro-batches that the recipe says, at answers that the
student gives by itself. Whether it does, and what it says, are drawn from torch's generator, which is part of each
checkpoint, so a resumed run draws the same.

Of TRL's trainer only the divergence and the drawing are taken. The trainer compares at all positions, of which most are
prompts and padding, in the base's precision and at the temperature 1, and asks Python's generator whether to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from mainspring_training_worker.batches import Example, micro_batches
from mainspring_training_worker.device import padded
from mainspring_training_worker.methods import trl_trainers as trl_trainers  # Before TRL; it says why.
from mainspring_training_worker.methods.helpers import load_teacher
from mainspring_training_worker.model import Tunable
from mainspring_training_worker.spec import Distillation, Spec

_UNSEEN = -100
"""Stands for a token that no loss is of, in TRL's eyes."""


class Student:
    """A model that answers prompts by itself while it learns."""

    def __init__(self, model: Tunable, wanted: Distillation, tokenizer: Any) -> None:
        from trl.experimental.gkd import GKDTrainer

        self._model, self._padding = model, int(tokenizer.pad_token_id)
        self._draw: Callable[..., tuple[Tensor, Tensor, Tensor]] = GKDTrainer.generate_on_policy_outputs
        self._sampling = GenerationConfig(
            max_new_tokens=wanted.max_answer_tokens,
            do_sample=True,
            temperature=wanted.temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=int(tokenizer.eos_token_id),
            pad_token_id=self._padding,
        )
        self._share, self.longest = wanted.on_policy_share, wanted.max_answer_tokens if wanted.on_policy_share else 0
        self._answers = self._answer_tokens = 0

    def wants_to(self) -> bool:
        """Whether it answers by itself this time; never while it is validated."""
        return self._share > 0 and self._model.module.training and torch.rand(()).item() < self._share

    def answered(self, group: Sequence[Example]) -> list[Example]:
        """The examples with its answers instead of theirs."""
        module, device = self._model.module, self._model.device
        # Prompts are filled up at their beginnings.
        backwards = padded([example.prompt[::-1] for example in group], self._padding, device)
        prompts, seen = (part.flip(1) for part in backwards)
        module.eval()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self._model.half):
            asked = {"prompts": prompts, "prompt_attention_mask": seen}
            tokens, _, labels = self._draw(module, asked, self._sampling)
        module.train()
        answers = [row[wanted].tolist() for row, wanted in zip(tokens, labels != _UNSEEN, strict=True)]
        self._answers += len(answers)
        self._answer_tokens += sum(map(len, answers))
        return [replace(e, tokens=(*e.prompt, *answer)) for e, answer in zip(group, answers, strict=True)]

    def measures(self) -> dict[str, float]:
        """Mean length of its answers since the last call."""
        found = {"answer_tokens": self._answer_tokens / self._answers} if self._answers else {}
        self._answers = self._answer_tokens = 0
        return found


class Distilled:
    """`Objective`: the divergence from the teacher at the answers' positions, per target token of the rows: a
    micro-batch counts by its rows, whoever has answered.
    """

    def __init__(
        self,
        model: Tunable,
        teacher: Tunable,
        divergence: Callable[[Tensor, Tensor], Tensor],
        student: Student,
        padding: int,
    ) -> None:
        """Takes both models, what is to be brought down of their words' scores, and the one that learns as it
        answers.
        """
        self._model, self._teacher, self._divergence = model, teacher, divergence
        self._student, self._padding = student, padding

    def weight(self, example: Example) -> int:
        return example.targets

    def groups(self, examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
        return micro_batches(examples, max_tokens, drawn_tokens=self._student.longest)

    def loss_sum(self, group: Sequence[Example]) -> Tensor:
        if not self._student.wants_to():
            return self._compared(group)
        drawn = self._student.answered(group)
        return self._compared(drawn) * (_targets(group) / _targets(drawn))

    def measures(self) -> dict[str, float]:
        return self._student.measures()

    def _compared(self, group: Sequence[Example]) -> Tensor:
        student, _ = self._model.predictions(group, self._padding)
        with torch.no_grad():
            teacher, _ = self._teacher.predictions(group, self._padding)
        return self._divergence(student, teacher)


def _targets(group: Sequence[Example]) -> int:
    return sum(example.targets for example in group)


def distillation_objective(spec: Spec, model: Tunable, tokenizer: Any) -> Distilled:
    """The objective of METHOD_DISTILLATION from logits."""
    from trl.experimental.gkd import GKDTrainer

    assert spec.helper is not None
    wanted = spec.distillation
    divergence = partial(
        GKDTrainer.generalized_jsd_loss, beta=wanted.divergence, temperature=wanted.temperature, reduction="sum"
    )
    teacher = Tunable(load_teacher(spec.helper, "fp32", tokenizer, model.device))
    student = Student(model, wanted, tokenizer)
    return Distilled(model, teacher, divergence, student, int(tokenizer.pad_token_id))
