"""TRL's trainers as sources of losses.

A trainer of TRL is made for its collator and its loss, and never asked to train: which rows a step sees, the optimiser,
checkpoints and resuming are the loop's, so that a run that was killed ends with the same bytes. A trainer wants a
dataset when it is made and prepares it; one example of no meaning serves for that, since ours come tokenised as the
serving engine will see them.
"""

from __future__ import annotations

import math
import os
from typing import Any

# Read when these libraries are imported. That some trainers are experimental is answered by the exact version of TRL.
os.environ |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

import torch
from datasets import Dataset

from mainspring_training_worker.device import on_gpu


def arguments(output: str, device: torch.device, **own: Any) -> dict[str, Any]:
    """The arguments that all of TRL's configurations share here, and a method's own."""
    return {
        "output_dir": output,
        "report_to": "none",
        "use_cpu": not on_gpu(device),
        "bf16": False,  # The base has its precision already; autocast would add another.
        "gradient_checkpointing": None,  # The old name of the next one, which TRL still sets by default.
        "activation_checkpointing": False,
        "max_length": None,
        "per_device_train_batch_size": 8,
        "disable_tqdm": True,
        **own,
    }


def placeholder(*rows: dict[str, Any]) -> Dataset:
    """The dataset that a trainer is made with."""
    return Dataset.from_list(list(rows))


class Gathered:
    """Numbers that a trainer notes with each loss, until somebody asks for their means."""

    def __init__(self, noted: Any, names: dict[str, str]) -> None:
        """Takes where they are.

        Args:
            noted: The trainer's lists, by mode and name.
            names: Our names for those that are kept.
        """
        self._noted, self._names = noted, names

    def means(self) -> dict[str, float]:
        """Means since the last call; of what is no number, as TRL notes for nothing of a kind, nothing."""
        found: dict[str, list[float]] = {}
        for by_name in self._noted.values():
            for theirs, ours in self._names.items():
                found.setdefault(ours, []).extend(filter(math.isfinite, by_name.get(theirs, [])))
            by_name.clear()
        return {name: sum(values) / len(values) for name, values in found.items() if values}
