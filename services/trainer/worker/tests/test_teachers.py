"""Learning from other models and from rewards: each learns, and resumes bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import LORA, OPTIMIZATION, Job, Outcome, make_job, rows, shard
from test_preferences import pairs

from mainspring_training_worker.methods.helpers import RewardModel
from mainspring_training_worker.methods.judging import Judge, judged_text
from mainspring_training_worker.methods.online import RULES
from mainspring_training_worker.spec import Helper, Refused

STEPS = {**OPTIMIZATION, "epochs": 6.0, "validate_every_steps": 12}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Outcome:
    """An adapter that has learned the rows well."""
    return make_job(tmp_path_factory.mktemp("teacher"), tiny_model).run_here(optimization=STEPS, lora=LORA)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    """A reward model that has learned which answer fits."""
    job = make_job(tmp_path_factory.mktemp("judge"), tiny_model)
    job.spec["train"] = [shard(job.folder / "pairs.parquet", pairs(48))]
    job.spec["validation"] = [shard(job.folder / "held-out.parquet", pairs(24, 1002))]
    made = job.run_here(method="REWARD_MODEL", lora=LORA, optimization={**STEPS, "learning_rate": 1e-2})
    assert made.of("metric")[-1]["measures"]["validation_reward_accuracy"] > 0.8
    return {"base_model": str(tiny_model), "adapter": str(made.output / "adapter")}


def helped(job: Job, teacher: Outcome, **changes: Any) -> dict[str, Any]:
    helper = {"base_model": job.spec["base_model"], "adapter": str(teacher.output / "adapter")}
    return {"method": "DISTILLATION", "helper": helper, "lora": LORA, **changes}


def test_i6_a_student_comes_close_to_its_teachers_distributions(job: Job, teacher: Outcome) -> None:
    changes = helped(job, teacher)
    whole = job.run_here(**changes)
    assert whole.status == 0, whole.told[-1]
    (result,) = whole.of("result")
    assert result["best_validation_loss"] < 0.7 * result["initial_validation_loss"]
    again = job.run_here(**changes, resume_from=whole.output / "checkpoint-00000004.safetensors")
    assert again.adapter_sha256 == whole.adapter_sha256


def test_i6_a_student_learns_at_its_own_answers_too_and_a_resumed_run_gives_the_same(
    job: Job, teacher: Outcome
) -> None:
    half = {**job.spec["distillation"], "on_policy_share": 0.5}
    changes = helped(job, teacher, distillation=half)
    whole = job.run_here(**changes)
    assert whole.status == 0, whole.told[-1]
    (result,) = whole.of("result")
    assert result["best_validation_loss"] < 0.8 * result["initial_validation_loss"]
    metrics = {metric["step"]: metric["measures"] for metric in whole.of("metric")}
    lengths = [measures["answer_tokens"] for measures in metrics.values() if "answer_tokens" in measures]
    assert lengths
    assert all(1 <= length <= half["max_answer_tokens"] for length in lengths)
    assert not any("validation_answer_tokens" in measures for measures in metrics.values())
    again = job.run_here(**changes, resume_from=whole.output / "checkpoint-00000004.safetensors")
    assert again.of("metric")[0]["step"] > 4
    assert again.adapter_sha256 == whole.adapter_sha256
    alone = job.run_here(**helped(job, teacher))
    assert alone.adapter_sha256 != whole.adapter_sha256


def test_a_student_learns_at_the_temperature_that_is_asked_for(job: Job, teacher: Outcome) -> None:
    losses: list[float] = []
    for temperature in (1.0, 8.0):
        wanted = {**job.spec["distillation"], "temperature": temperature}
        steps = {**OPTIMIZATION, "max_steps": 1}
        (result,) = job.run_here(**helped(job, teacher, distillation=wanted, optimization=steps)).of("result")
        losses.append(result["initial_validation_loss"])
    assert losses[1] < 0.5 * losses[0]


def test_i6_a_student_learns_its_teachers_answers(job: Job, fluent: Path) -> None:
    """The rows' own answers are nonsense, those that steer, too, so what it learns it has from the teacher."""
    for split, start in (("train", 0), ("validation", 1000)):
        nonsense = [
            {**r, "messages": [r["messages"][0], {"role": "assistant", "content": "zzz"}]} for r in rows(48, start)
        ]
        job.spec[split] = [shard(job.folder / f"{split}-nonsense.parquet", nonsense)]
    answers = {**job.spec["distillation"], "source": "ANSWERS"}
    helper = {"base_model": str(fluent), "adapter": None}
    changes: dict[str, Any] = {"method": "DISTILLATION", "helper": helper, "lora": LORA, "distillation": answers}
    whole = job.run_here(**changes)
    (result,) = whole.of("result")
    assert result["rows_validation"] > 0
    assert result["best_validation_loss"] < result["initial_validation_loss"] - 0.2
    again = job.run_here(**changes, resume_from=whole.output / "checkpoint-00000004.safetensors")
    assert again.adapter_sha256 == whole.adapter_sha256


@pytest.fixture(scope="module")
def fluent(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A model that has learned to answer, but not yet which answer fits."""
    job = make_job(tmp_path_factory.mktemp("fluent"), tiny_model)
    steps = {**STEPS, "learning_rate": 6e-3, "epochs": 8.0, "validate_every_steps": 48}
    return job.run_here(adaptation="FULL", optimization=steps).output / "hf"


def earning(fluent: Path) -> dict[str, Any]:
    steps = {**OPTIMIZATION, "learning_rate": 1e-2, "batch_rows": 6, "max_steps": 8, "validate_every_steps": 4}
    return {"base_model": str(fluent), "optimization": steps, "lora": LORA}


@pytest.mark.parametrize(("method", "at_once"), [("GRPO", 128), ("GRPO", 4096), ("RLOO", 4096)])
def test_i6_a_model_earns_more_reward_by_a_rule(job: Job, fluent: Path, method: str, at_once: int) -> None:
    """Half of its answers have an n in them to begin with; one prompt's answers are drawn at once, or all of a step."""
    for split, start in (("train", 0), ("validation", 1000)):
        wanted = [{**r, "messages": [r["messages"][0], {"role": "assistant", "content": "n"}]} for r in rows(24, start)]
        job.spec[split] = [shard(job.folder / f"{split}-n.parquet", wanted)]
    online = {**job.spec["online"], "rule": "CONTAINS", "max_answer_tokens": 12, "generations": 6}
    changes: dict[str, Any] = {
        "method": method,
        "online": online,
        "micro_batch_tokens": at_once,
        **earning(fluent),
    }
    whole = job.run_here(**changes)
    assert whole.status == 0, whole.told[-1]
    (result,) = whole.of("result")
    assert result["best_validation_loss"] < result["initial_validation_loss"] - 0.1
    again = job.run_here(**changes, resume_from=whole.output / "checkpoint-00000004.safetensors")
    assert again.adapter_sha256 == whole.adapter_sha256


def test_memory_for_answers_is_foretold_by_the_prompts_that_there_are(job: Job, fluent: Path) -> None:
    """Not by the longest that there may be, which would refuse runs of short prompts."""
    needs: list[int] = []
    for longest in (128, 512):
        changes = earning(fluent)
        changes["optimization"] |= {"max_steps": 1, "max_sequence_tokens": longest}
        run = job.run_here(**changes, method="GRPO", online={**job.spec["online"], "rule": "CONTAINS"})
        needs.append(json.loads((run.output / "training_report.json").read_text())["expected_bytes"])
    assert needs[0] == needs[1]


def test_a_judge_ranks_answers_that_it_has_not_seen_and_gives_rewards(
    job: Job, fluent: Path, judge: dict[str, Any]
) -> None:
    scores = RewardModel(Helper(Path(judge["base_model"]), Path(judge["adapter"])), 0)
    unseen = pairs(24, 2001)
    better = scores.score([row["messages"] for row in unseen])
    answers = [[row["messages"][0], {"role": "assistant", "content": row["rejected"]}] for row in unseen]
    assert sum(good > bad for good, bad in zip(better, scores.score(answers), strict=True)) > 18
    steps = {**earning(fluent)["optimization"], "max_steps": 2}
    changes: dict[str, Any] = {"method": "GRPO", "helper": judge, **earning(fluent), "optimization": steps}
    run = job.run_here(**changes)
    (result,) = run.of("result")
    told = [metric["measures"]["validation_reward"] for metric in run.of("metric") if metric["validation_loss"]]
    assert result["initial_validation_loss"] == pytest.approx(-told[0])
    assert min(better) - 10 < told[0] < max(better) + 10


RUBRIC = "Fits?"


def marked(count: int, start: int) -> list[dict[str, Any]]:
    """Conversations as a judge sees them, and the mark that it should give: 5 for the row's answer, 1 for another."""
    made: list[dict[str, Any]] = []
    for number, row in enumerate(pairs(count, start), start):
        question, right = row["messages"][:1], row["messages"][1]["content"]
        answer, mark = (right, "5") if number % 2 else (row["rejected"], "1")
        told = [{"role": "user", "content": judged_text(RUBRIC, (question, answer, right))}]
        made.append({"row_id": row["row_id"], "messages": [*told, {"role": "assistant", "content": mark}]})
    return made


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Helper:
    """A model that has learned to give marks."""
    job = make_job(tmp_path_factory.mktemp("marker"), tiny_model)
    job.spec["train"] = [shard(job.folder / "marked.parquet", marked(96, 0))]
    job.spec["validation"] = [shard(job.folder / "held-out.parquet", marked(24, 1002))]
    steps = {**STEPS, "learning_rate": 3e-3, "epochs": 10.0, "validate_every_steps": 30, "max_sequence_tokens": 512}
    made = job.run_here(adaptation="FULL", optimization=steps)
    assert made.status == 0, made.told[-1]
    return Helper(made.output / "hf", None)


def test_a_judge_marks_answers_that_it_has_not_seen(marker: Helper) -> None:
    judge, unseen = Judge(marker, RUBRIC), pairs(24, 2001)
    right = [row["messages"][1]["content"] for row in unseen]
    better = judge.score([(row["messages"][:1], own, own) for row, own in zip(unseen, right, strict=True)])
    worse = judge.score([(r["messages"][:1], r["rejected"], own) for r, own in zip(unseen, right, strict=True)])
    assert sum(good > bad for good, bad in zip(better, worse, strict=True)) > 18
    assert all(0 <= mark <= 1 for mark in (*better, *worse))
    assert judge.measures()["judge_nonsense"] < 0.1
    assert judge.measures() == {}


def test_a_judge_gives_rewards_and_a_resumed_run_is_given_the_same(job: Job, fluent: Path, marker: Helper) -> None:
    changes: dict[str, Any] = {**earning(fluent), "method": "GRPO"}
    changes["optimization"] |= {"max_steps": 4, "validate_every_steps": 2}
    changes["helper"] = {"base_model": str(marker.base_model), "adapter": None}
    changes["online"] = {**job.spec["online"], "judge_rubric": RUBRIC}
    whole = job.run_here(**changes)
    assert whole.status == 0, whole.told[-1]
    told = [metric["measures"] for metric in whole.of("metric") if metric["validation_loss"] is not None]
    assert all(0 <= measures["validation_reward"] <= 1 for measures in told)
    assert all("validation_judge_nonsense" in measures for measures in told)
    again = job.run_here(**changes, resume_from=whole.output / "checkpoint-00000002.safetensors")
    assert again.adapter_sha256 == whole.adapter_sha256


def test_b9_a_judge_that_talks_nonsense_ends_the_run(job: Job, fluent: Path, tiny_model: Path) -> None:
    helper = {"base_model": str(tiny_model), "adapter": None}
    online = {**job.spec["online"], "judge_rubric": RUBRIC}
    run = job.run_here(**earning(fluent), method="GRPO", helper=helper, online=online)
    (failed,) = run.of("failed")
    assert failed["reason"] == "JUDGE_UNUSABLE"
    assert "had no mark" in failed["message"]


def test_rules_reward_what_they_say() -> None:
    asked = {name: [rule(answer, "a b") for answer in ("a b", "so: a b", "b", "{}")] for name, rule in RULES.items()}
    assert asked["EXACT_MATCH"] == [1, 0, 0, 0]
    assert asked["CONTAINS"] == [1, 1, 0, 0]
    assert asked["WORD_OVERLAP"] == pytest.approx([1, 4 / 5, 2 / 3, 0])
    assert asked["JSON_VALID"] == [0, 0, 0, 1]


def test_b9_what_cannot_judge_or_teach_is_refused(job: Job, tiny_model: Path) -> None:
    with pytest.raises(Refused) as caught:
        RewardModel(Helper(tiny_model, None), 0)
    assert caught.value.reason == "REWARD_MODEL_UNUSABLE"
    assert job.run_here(method="GRPO").of("failed")[0]["reason"] == "REWARD_MISSING"
