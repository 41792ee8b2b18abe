"""Each way to a better model learns what holds for other rows, and resumes bit by bit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from support import LORA, OPTIMIZATION, Job, Outcome, rows, shard
from transformers import AutoModelForCausalLM

from mainspring_modelfiles.gguf_file import GgufFile
from mainspring_training_worker.batches import Example
from mainspring_training_worker.layers import PLAIN_ATTENTION
from mainspring_training_worker.model import Tunable, load_base
from mainspring_training_worker.scratch import shape
from mainspring_training_worker.spec import Lora, Refused

FULL = {"adaptation": "FULL", "optimization": {**OPTIMIZATION, "learning_rate": 3e-3}}
WAYS: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"lora": LORA | {"rank_stabilized": True}},
    "weight-decomposed": {"lora": LORA | {"weight_decomposed": True}},
    "four bits": {"adaptation": "QLORA", "lora": LORA},
    "packed": {"lora": LORA, "optimization": {**OPTIMIZATION, "packing": True}},
    "whole model": FULL,
    "corpus": {"method": "CONTINUED_PRETRAINING", "lora": LORA},
    "from nothing": {"method": "PRETRAINING", **FULL},
}


def documents(count: int, start: int = 0) -> list[dict[str, Any]]:
    """A plain corpus."""
    made = rows(count, start)
    for row in made:
        text = f"the {row['messages'][0]['content']} is {row['messages'][1]['content']} "
        row["messages"] = [{"role": "assistant", "content": text * 3}]
    return made


def digest(outcome: Outcome) -> str:
    """Of the weights that a run has made."""
    files = outcome.of("result")[0]["files"]
    role = "adapter/adapter_model.safetensors"
    path = outcome.output / files[role if role in files else "hf/model.safetensors"]
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("way", list(WAYS))
def test_i6_each_way_learns_and_a_resumed_run_ends_with_the_same_weights(job: Job, way: str) -> None:
    changes = WAYS[way]
    if changes.get("method"):
        job.spec["train"] = [shard(job.folder / "corpus.parquet", documents(48))]
        job.spec["validation"] = [shard(job.folder / "held-out.parquet", documents(12, 1000))]
    whole = job.run_here(**changes)
    assert whole.status == 0, whole.told[-1]
    (result,) = whole.of("result")
    assert result["best_validation_loss"] < result["initial_validation_loss"] - 0.3
    again = job.run_here(**changes, resume_from=whole.output / "checkpoint-00000004.safetensors")
    assert again.of("metric")[0]["step"] > 4
    assert digest(again) == digest(whole)
    if "gguf" in result["files"]:
        assert GgufFile(whole.output / result["files"]["gguf"]).get("general.architecture", "") == "llama"
        model = AutoModelForCausalLM.from_pretrained(whole.output / "hf")
        assert sum(p.numel() for p in model.parameters()) > 50_000


def test_packed_examples_do_not_see_each_other(tiny_model: Path) -> None:
    examples = [Example(f"r{n}", tuple(range(2 + n, 14 + 2 * n)), 3) for n in range(4)]
    base = load_base(tiny_model, "fp32", PLAIN_ATTENTION)
    packed = Tunable.adapted(base, Lora(**LORA), None, seed=0, packed=True)
    packed.module.eval()
    alone = sum(packed.loss_sum([example], 1).item() for example in examples)
    with torch.no_grad():
        assert packed.loss_sum(examples, 1).item() == pytest.approx(alone, rel=1e-5)
        leaky = Example("all", tuple(t for e in examples for t in e.tokens), 3)
        assert packed.loss_sum([leaky], 1).item() != pytest.approx(alone, rel=0.01)


def test_a_model_from_nothing_has_at_most_the_parameters_asked_for() -> None:
    from transformers import LlamaForCausalLM

    for budget in (300_000, 2_000_000, 10_000_000):
        with torch.device("meta"):
            count = sum(p.numel() for p in LlamaForCausalLM(shape(budget, 1000, 512)).parameters())
        assert budget / 3 < count <= budget
    with pytest.raises(Refused) as caught:
        shape(10_000, 1000, 512)
    assert caught.value.reason == "PARAMETERS_TOO_FEW"
