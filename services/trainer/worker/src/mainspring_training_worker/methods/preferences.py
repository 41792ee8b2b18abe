"""Learning from judgements: pairs of a better and a worse answer, and thumbs on single answers.

A reward model learns to give better answers a higher number (Bradley and Terry 1952).

DPO (Rafailov et al. 2023, arXiv:2305.18290), IPO (Azar et al. 2023, arXiv:2310.12036), ORPO (Hong et al. 2024,
arXiv:2403.07691) and KTO (Ethayarajh et al. 2024, arXiv:2402.01306), each by TRL's trainer. The reference of DPO, IPO
and KTO is the model as the run begins with it; ORPO has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mainspring_training_worker.batches import Example, micro_batches
from mainspring_training_worker.device import moved
from mainspring_training_worker.methods import trl_trainers
from mainspring_training_worker.model import Tunable
from mainspring_training_worker.spec import Spec

_FEWEST = 4
"""Rows of a KTO micro-batch: its divergence term is estimated by giving each prompt the answer of another one."""
_NAMES = {"rewards/accuracies": "reward_accuracy", "rewards/margins": "reward_margin", "kl": "divergence"}
_REWARDS = {"accuracy": "reward_accuracy", "margin": "reward_margin"}
_PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
_THUMBS = [{"prompt": "a", "completion": "b", "label": good} for good in (True, False)]
Batch = Callable[[Sequence[Example]], dict[str, Tensor]]


class Preferences:
    """`Objective`: TRL's loss, each pair or thumb counting as one."""

    def __init__(
        self,
        trainer: Any,
        batch: Batch,
        noted: Any,
        device: torch.device,
        *,
        at_least: int = 1,
        names: dict[str, str] = _NAMES,
    ) -> None:
        """Takes a trainer of TRL and what belongs to it.

        Args:
            trainer: Its `compute_loss` is used.
            batch: Makes a micro-batch as the trainer wants it.
            noted: The trainer's lists of measures.
            device: Where the model is.
            at_least: Fewest examples of a micro-batch.
            names: Our names for those of its measures that are kept.
        """
        self._trainer, self._batch, self._device, self._at_least = trainer, batch, device, at_least
        self._gathered = trl_trainers.Gathered(noted, names)

    def weight(self, example: Example) -> int:
        return 1

    def groups(self, examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
        return micro_batches(examples, max_tokens, at_least=self._at_least)

    def loss_sum(self, group: Sequence[Example]) -> Tensor:
        given = {name: self._moved(value) for name, value in self._batch(group).items()}
        loss: Tensor = self._trainer.compute_loss(self._trainer.model, given)
        return loss * len(group)

    def measures(self) -> dict[str, float]:
        return self._gathered.means()

    def _moved(self, value: Any) -> Any:
        return moved(value, self._device) if isinstance(value, Tensor) else value


def preference_objective(spec: Spec, model: Tunable, tokenizer: Any) -> Preferences:
    """The objective of DPO, IPO, ORPO or KTO."""
    if spec.method == "REWARD_MODEL":
        return _rewards(spec, model, tokenizer)
    if spec.method == "KTO":
        return _kto(spec, model, tokenizer)
    return _orpo(spec, model, tokenizer) if spec.method == "ORPO" else _dpo(spec, model, tokenizer)


def _dpo(spec: Spec, model: Tunable, tokenizer: Any) -> Preferences:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    loss = "ipo" if spec.method == "IPO" else "sigmoid"
    own = trl_trainers.arguments(
        str(spec.output), model.device, beta=spec.preference.beta, loss_type=loss, seed=_seed(spec)
    )
    trainer: Any = DPOTrainer(
        model=model.module,
        args=DPOConfig(**own),
        train_dataset=trl_trainers.placeholder(_PAIR),
        processing_class=tokenizer,
    )

    def batch(group: Sequence[Example]) -> dict[str, Tensor]:
        return trainer.data_collator(
            [
                {"prompt_ids": list(e.prompt), "chosen_ids": list(e.answer), "rejected_ids": list(e.rejected)}
                for e in group
            ]
        )

    return Preferences(trainer, batch, trainer._metrics, model.device)


def _orpo(spec: Spec, model: Tunable, tokenizer: Any) -> Preferences:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    longest = spec.optimization.max_sequence_tokens
    own = trl_trainers.arguments(
        str(spec.output), model.device, beta=spec.preference.beta, max_length=longest, seed=_seed(spec)
    )
    trainer: Any = ORPOTrainer(
        model=model.module,
        args=ORPOConfig(**own, remove_unused_columns=False),
        train_dataset=trl_trainers.placeholder(_PAIR),
        processing_class=tokenizer,
    )

    def batch(group: Sequence[Example]) -> dict[str, Tensor]:
        return trainer.data_collator(
            [
                {
                    f"{side}_{name}": values
                    for side, answer in (("chosen", e.answer), ("rejected", e.rejected))
                    for name, values in _labelled(e.prompt, answer).items()
                }
                for e in group
            ]
        )

    return Preferences(trainer, batch, trainer._stored_metrics, model.device)


def _labelled(prompt: tuple[int, ...], answer: tuple[int, ...]) -> dict[str, list[int]]:
    tokens = [*prompt, *answer]
    hidden = [-100] * len(prompt)
    return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": [*hidden, *answer]}


def _kto(spec: Spec, model: Tunable, tokenizer: Any) -> Preferences:
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    wanted = spec.preference
    own = trl_trainers.arguments(
        str(spec.output),
        model.device,
        beta=wanted.beta,
        desirable_weight=wanted.desirable_weight,
        undesirable_weight=wanted.undesirable_weight,
        seed=_seed(spec),
    )
    trainer: Any = KTOTrainer(
        model=model.module,
        args=KTOConfig(**own),
        train_dataset=trl_trainers.placeholder(*_THUMBS),
        processing_class=tokenizer,
    )

    def batch(group: Sequence[Example]) -> dict[str, Tensor]:
        # The answers moved on by one, as TRL prepares its own datasets.
        others = [group[-1], *group[:-1]]
        return trainer.data_collator(
            [
                {
                    "prompt_ids": list(e.prompt),
                    "completion_ids": list(e.answer),
                    "KL_completion_ids": list(other.answer),
                    "label": e.desirable is not False,
                }
                for e, other in zip(group, others, strict=True)
            ]
        )

    return Preferences(trainer, batch, trainer._metrics, model.device, at_least=_FEWEST)


def _rewards(spec: Spec, model: Tunable, tokenizer: Any) -> Preferences:
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    own = trl_trainers.arguments(str(spec.output), model.device, center_rewards_coefficient=0.01, seed=_seed(spec))
    trainer: Any = RewardTrainer(
        model=model.module,
        args=RewardConfig(**own),
        train_dataset=trl_trainers.placeholder(_PAIR),
        processing_class=tokenizer,
    )

    def batch(group: Sequence[Example]) -> dict[str, Tensor]:
        return trainer.data_collator(
            [{"chosen_ids": list(e.tokens), "rejected_ids": [*e.prompt, *e.rejected]} for e in group]
        )

    return Preferences(trainer, batch, trainer._metrics, model.device, names=_REWARDS)


def _seed(spec: Spec) -> int:
    return spec.optimization.seed
