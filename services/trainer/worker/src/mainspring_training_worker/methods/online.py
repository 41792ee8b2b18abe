"""Learning from rewards of the model's own answers: GRPO (Shao et al. 2024, arXiv:2402.03300) and RLOO
(Ahmadian et al. 2024, arXiv:2402.14740), by TRL's trainers.

Answers are drawn from torch's generator, which is part of each checkpoint, so a resumed run draws the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mainspring_training_worker.batches import Example
from mainspring_training_worker.methods import trl_trainers
from mainspring_training_worker.methods.helpers import RewardModel
from mainspring_training_worker.methods.judging import Judge
from mainspring_training_worker.model import Tunable
from mainspring_training_worker.rows import Message
from mainspring_training_worker.spec import Online as OnlineSettings
from mainspring_training_worker.spec import Refused, Spec

Rule = Callable[[str, str], float]
_NAMES = {
    "reward": "reward",
    "reward_std": "reward_deviation",
    "kl": "divergence",
    "completions/mean_length": "answer_tokens",
}


def _parses(answer: str, _: str) -> float:
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def _overlap(answer: str, reference: str) -> float:
    """F1 of the words that both have, as sets."""
    ours, theirs = set(answer.lower().split()), set(reference.lower().split())
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 1.0


RULES: dict[str, Rule] = {
    "EXACT_MATCH": lambda answer, reference: float(answer.strip() == reference.strip()),
    "CONTAINS": lambda answer, reference: float(reference.strip() in answer),
    "WORD_OVERLAP": _overlap,
    "JSON_VALID": _parses,
}
"""Rewards without a model: of an answer, and the row's own answer beside it."""


class Online:
    """`Objective`: TRL's policy loss while training; while validating, what is missing to the mean reward, negated."""

    def __init__(self, trainer: Any, wanted: OnlineSettings, judge: Judge | None) -> None:
        self._trainer, self._wanted, self._judge = trainer, wanted, judge
        self._gathered = trl_trainers.Gathered(trainer._metrics, _NAMES)

    def weight(self, example: Example) -> int:
        return 1

    def groups(self, examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
        """Prompts whose answers fit together, at least one: on a GPU drawing takes as long for many as for few."""
        longest = max(len(example.prompt) for example in examples) + self._wanted.max_answer_tokens
        at_once = max(1, max_tokens // (self._wanted.generations * longest))
        return (list(examples[start : start + at_once]) for start in range(0, len(examples), at_once))

    def loss_sum(self, group: Sequence[Example]) -> Tensor:
        trainer = self._trainer
        asked = [
            {"prompt": list(example.messages[:-1]), "reference": example.messages[-1]["content"]}
            for example in group
            for _ in range(self._wanted.generations)
        ]
        training = trainer.model.training
        scored = trainer._generate_and_score_completions(asked)
        if not training:
            return torch.tensor(-trainer._metrics["eval"]["reward"][-1] * len(group))
        trainer.model.train()  # Generation may have switched it.
        loss: Tensor = trainer.compute_loss(trainer.model, scored)
        return loss * len(group)

    def measures(self) -> dict[str, float]:
        for log in (self._trainer._logs[name] for name in ("prompt", "completion", "advantages")):
            log.clear()
        return self._gathered.means() | (self._judge.measures() if self._judge is not None else {})


def online_objective(spec: Spec, model: Tunable, tokenizer: Any) -> Online:
    """The objective of GRPO or RLOO."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    wanted = spec.online
    own = trl_trainers.arguments(
        str(spec.output),
        model.device,
        beta=wanted.beta,
        num_generations=wanted.generations,
        max_completion_length=wanted.max_answer_tokens,
        temperature=wanted.temperature,
        seed=spec.optimization.seed,
        per_device_train_batch_size=wanted.generations,
        per_device_eval_batch_size=wanted.generations,
        steps_per_generation=1,
    )
    del own["max_length"]
    is_grpo = spec.method == "GRPO"
    judge = (
        Judge(spec.helper, spec.online.judge_rubric, model.device) if spec.helper and spec.online.judge_rubric else None
    )
    kind: Any = GRPOTrainer if is_grpo else RLOOTrainer
    trainer: Any = kind(
        model=model.module,
        reward_funcs=_by_judge(judge) if judge is not None else _reward(spec, model.device),
        args=GRPOConfig(**own, loss_type="grpo") if is_grpo else RLOOConfig(**own),
        train_dataset=trl_trainers.placeholder({"prompt": [{"role": "user", "content": "a"}], "reference": "b"}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1  # Otherwise set by TRL's own loop; ours divides itself.
    return Online(trainer, wanted, judge)


def _by_judge(judge: Judge) -> Callable[..., list[float]]:
    def marked(
        prompts: list[list[Message]], completions: list[list[Message]], reference: list[str], **_: Any
    ) -> list[float]:
        answers = [answer[-1]["content"] for answer in completions]
        return judge.score(list(zip(prompts, answers, reference, strict=True)))

    return marked


def _reward(spec: Spec, device: torch.device) -> Callable[..., list[float]]:
    """What TRL calls with prompts, answers, and the columns of the rows."""
    if spec.helper is not None:
        judge = RewardModel(spec.helper, spec.optimization.seed, device)

        def by_model(prompts: list[list[Message]], completions: list[list[Message]], **_: Any) -> list[float]:
            return judge.score([[*prompt, *answer] for prompt, answer in zip(prompts, completions, strict=True)])

        return by_model
    rule = RULES.get(spec.online.rule)
    if rule is None:
        raise Refused("REWARD_MISSING", "the recipe names no rule, reward model or judge; set one in `online`")

    def by_rule(completions: list[list[Message]], reference: list[str], **_: Any) -> list[float]:
        pairs = zip(completions, reference, strict=True)
        return [rule(answer[-1]["content"], wanted) for answer, wanted in pairs]

    return by_rule
