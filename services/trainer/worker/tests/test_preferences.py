"""Learning from judgements: each method learns what holds for other rows, resumes bit by bit and refuses other data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import LORA, OPTIMIZATION, Job, rows, shard

from mainspring_training_worker.fitting import fitting
from mainspring_training_worker.methods.trl_trainers import Gathered
from mainspring_training_worker.rows import Row
from mainspring_training_worker.spec import Refused

METHODS = ("DPO", "IPO", "ORPO", "KTO", "REWARD_MODEL")
QUESTION = ({"role": "user", "content": "is it?"}, {"role": "assistant", "content": "yes"})
LEARNED = {"DPO": 0.8, "IPO": 0.95, "ORPO": 0.95, "KTO": 0.95, "REWARD_MODEL": 0.98}
"""Share of the first validation loss that is left at most; without learning it is 1, to the last digit."""
STEPS = {**OPTIMIZATION, "learning_rate": 1e-2, "epochs": 2.0, "validate_every_steps": 4}


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows whose better answer can be told from the worse one by what was asked."""
    answers = ["blue", "green as it is", "yellow in autumn"]
    return [{**row, "rejected": answers[(number + 1) % 3]} for number, row in enumerate(rows(count, start), start)]


def thumbs(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows with a thumb up, and as many with another answer and a thumb down."""
    made: list[dict[str, Any]] = []
    for number, row in enumerate(pairs(count, start)):
        bad = [row["messages"][0], {"role": "assistant", "content": row["rejected"]}]
        judged = {"desirable": True} if number % 2 else {"desirable": False, "messages": bad}
        made.append({"row_id": row["row_id"], "messages": row["messages"], **judged})
    return made


@pytest.fixture
def judged(job: Job) -> Job:
    """A run on 48 pairs and 24 held-out ones."""
    job.spec["train"] = [shard(job.folder / "pairs.parquet", pairs(48))]
    job.spec["validation"] = [shard(job.folder / "held-out.parquet", pairs(24, 1002))]
    job.spec["optimization"] = STEPS
    job.spec["lora"] = LORA
    return job


@pytest.mark.parametrize("method", METHODS)
def test_i6_each_method_learns_and_a_resumed_run_ends_with_the_same_weights(judged: Job, method: str) -> None:
    judged.spec["method"] = method
    whole = judged.run_here()
    assert whole.status == 0, whole.errors
    (result,) = whole.of("result")
    first, last = (whole.of("metric")[at]["measures"] for at in (0, -1))
    assert result["best_validation_loss"] < LEARNED[method] * result["initial_validation_loss"]
    assert last["validation_reward_margin"] > first["validation_reward_margin"]
    again = judged.run_here(resume_from=whole.output / "checkpoint-00000004.safetensors")
    assert again.of("metric")[0]["step"] > 4
    assert again.adapter_sha256 == whole.adapter_sha256


def test_what_is_measured_is_told_once_and_only_as_numbers() -> None:
    noted = {"train": {"kl": [0.5, math.nan, 1.0], "other": [3.0]}, "eval": {"kl": [math.inf]}}
    gathered = Gathered(noted, {"kl": "divergence", "rewards/margins": "reward_margin"})
    assert gathered.means() == {"divergence": 0.75}
    assert gathered.means() == {}


def test_a_head_that_gives_scores_learns_in_fp32_whatever_its_base_is_in(judged: Job) -> None:
    """In bf16 a step of a small rate would be lost in rounding."""
    made = judged.run_here(method="REWARD_MODEL", precision="bf16", optimization={**STEPS, "max_steps": 2})
    learned = load_file(made.output / "adapter" / "adapter_model.safetensors")
    assert [tensor.dtype for name, tensor in learned.items() if "score" in name] == [torch.float32]


def test_b9_rows_of_another_kind_are_refused_before_anything_is_loaded(judged: Job) -> None:
    outcome = judged.run(method="DPO", train=[shard(judged.folder / "other.parquet", thumbs(16))])
    assert outcome.status == 3
    assert outcome.of("failed")[0]["reason"] == "DATASET_MISMATCH"
    assert [line["phase"] for line in outcome.of("phase")] == ["reading rows"]


@pytest.mark.parametrize("method", [*METHODS, "SUPERVISED"])
def test_b9_each_method_says_which_rows_it_needs(method: str) -> None:
    nobody_judged = Row("r", QUESTION, desirable=False if method == "SUPERVISED" else None)
    with pytest.raises(Refused, match=f"METHOD_{method} learns from rows with") as caught:
        fitting(method, [nobody_judged], "train")
    assert caught.value.reason == "DATASET_MISMATCH"


def test_thumbs_of_one_kind_teach_nothing_and_are_refused() -> None:
    with pytest.raises(Refused, match="of one kind"):
        fitting("KTO", [Row(str(n), QUESTION, desirable=True) for n in range(3)], "train")


def test_an_answer_that_was_judged_bad_is_never_learned() -> None:
    judged = [Row("good", QUESTION, desirable=True), Row("bad", QUESTION, desirable=False), Row("free", QUESTION)]
    fit = fitting("SUPERVISED", judged, "train")
    assert [row.row_id for row in fit.rows] == ["good", "free"]
    assert fit.unfit == 1


def test_a_pair_is_two_thumbs() -> None:
    fit = fitting("KTO", [Row("r", QUESTION, rejected="no")], "train")
    assert [(row.messages[-1]["content"], row.desirable) for row in fit.rows] == [("yes", True), ("no", False)]
    assert len({row.row_id for row in fit.rows}) == 2
