"""How a model learns: one module per kind of method, all driven by the loop of `training.py`.

Losses of preferences, rewards and distillation are TRL's (`trl_trainers.py` says how); the loss on answers is our own,
for the measured reasons of adr/0011. What a method needs of the data is checked by `fitting.py` before that.
"""

from __future__ import annotations

from typing import Any

from mainspring_training_worker import embedding
from mainspring_training_worker.fitting import ONLINE, PAIRED, UNPAIRED
from mainspring_training_worker.methods.base import Objective
from mainspring_training_worker.methods.supervised import Supervised
from mainspring_training_worker.model import Tunable
from mainspring_training_worker.spec import Spec


def objective(spec: Spec, model: Tunable, tokenizer: Any) -> Objective:
    """What the loop brings down, for a model with the weights that a run begins with.

    Args:
        spec: What is asked for.
        model: The model; what it is now is the reference of methods that have one.
        tokenizer: Its tokenizer.
    """
    # TRL takes seconds to import, so only those who need it wait.
    if spec.method in PAIRED | UNPAIRED:
        from mainspring_training_worker.methods.preferences import preference_objective

        return preference_objective(spec, model, tokenizer)
    if spec.method in ONLINE:
        from mainspring_training_worker.methods.online import online_objective

        return online_objective(spec, model, tokenizer)
    if spec.method == embedding.METHOD:
        from mainspring_training_worker.methods.retrieval import retrieval_objective

        return retrieval_objective(spec, model, int(tokenizer.pad_token_id))
    if spec.method == "DISTILLATION" and spec.distillation.source == "LOGITS":
        from mainspring_training_worker.methods.distillation import distillation_objective

        return distillation_objective(spec, model, tokenizer)
    return Supervised(model, int(tokenizer.pad_token_id))
