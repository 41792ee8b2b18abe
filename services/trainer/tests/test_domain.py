import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.training.v1 import recipe_pb2
from mainspring_svckit.errors import IllegalTransition, InvalidInput, PreconditionFailed
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.contracts.states import assert_as_declared
from mainspring_trainer.domain.manifests import TRAIN, read_manifest
from mainspring_trainer.domain.recipes import (
    Adaptation,
    Checks,
    DistillationConfig,
    LoraConfig,
    Method,
    OnlineConfig,
    Optimization,
    PretrainingConfig,
    Rule,
    StartFrom,
    TeacherSource,
    TuningRecipe,
)
from mainspring_trainer.domain.results import ADAPTER, REPORT, media_types
from mainspring_trainer.domain.runs import (
    RUN_STATES,
    Checkpoint,
    Dataset,
    RunState,
    TrainingMetric,
    TrainingResult,
    TrainingRun,
    metric_key,
)
from mainspring_trainer.transport.recipes import applied_recipe_to_proto, recipe_from_proto

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECIPE = TuningRecipe(
    name="projects/p/tuningRecipes/t",
    dataset="projects/p/datasets/d",
    base_model_version="projects/p/models/base/versions/1",
    model="projects/p/models/m",
)
JUDGE = "projects/p/models/judge/versions/1"
RULED = OnlineConfig(rule=Rule.WORD_OVERLAP)
RUN = TrainingRun("projects/p/trainingRuns/r", RECIPE, "projects/p/datasets/d/versions/1", "c", NOW)
RESULT = TrainingResult({}, 5, 1.0, 2.0, 10, 1000, False, 0)
DATASET = Dataset(RUN.dataset_version, ArtifactRef("a" * 64, 1), "root")


def metric(step: int, second: float) -> TrainingMetric:
    return TrainingMetric(
        f"{RUN.name}/metrics/{step}", RUN.name, step, 0.1, 1.0, None, 1e-3, 100.0, NOW + timedelta(seconds=second)
    )


def test_the_state_machine_is_as_the_contract_says() -> None:
    assert_as_declared(RUN_STATES, "training/v1/run.proto", "TrainingRun")


def test_a_recipe_has_one_digest_and_another_recipe_another() -> None:
    assert RECIPE.sha256 == replace(RECIPE).sha256
    assert RECIPE.sha256 != replace(RECIPE, lora=LoraConfig(rank=8)).sha256


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "projects/other/datasets/d"),
        ("base_model_version", "projects/other/models/base/versions/1"),
        ("model", "projects/other/models/m"),
    ],
)
def test_a3_a_recipe_names_nothing_of_another_project(field: str, value: str) -> None:
    RECIPE.check()
    with pytest.raises(InvalidInput) as caught:
        replace(RECIPE, **{field: value}).check()
    assert [v.field for v in caught.value.violations] == [f"tuning_recipe.{field}"]


def test_an_adapter_is_no_version_of_its_own_base() -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(RECIPE, model="projects/p/models/base").check()
    assert caught.value.reason == "MODEL_IS_BASE"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": Method.DPO, "adaptation": Adaptation.FULL}, "ADAPTATION_UNSUPPORTED"),
        ({"method": Method.PRETRAINING}, "ADAPTATION_UNSUPPORTED"),
        ({"method": Method.EMBEDDING}, "ADAPTATION_UNSUPPORTED"),
        ({"adaptation": Adaptation.FULL, "start_from": StartFrom.CHAMPION}, "ADAPTATION_UNSUPPORTED"),
        ({"method": Method.DISTILLATION}, "TEACHER_MISSING"),
        (
            {
                "method": Method.DISTILLATION,
                "distillation": DistillationConfig(JUDGE, TeacherSource.ANSWERS, 1, 0, 9, 0.5),
            },
            "ON_POLICY_UNSUPPORTED",
        ),
        ({"method": Method.GRPO}, "REWARD_MISSING"),
        ({"method": Method.RLOO, "online": replace(RULED, reward_model_version=JUDGE)}, "REWARD_MISSING"),
        ({"method": Method.RLOO, "online": replace(RULED, judge_model_version=JUDGE)}, "REWARD_MISSING"),
        (
            {"method": Method.GRPO, "online": OnlineConfig(judge_model_version=JUDGE.replace("/p/", "/q/"))},
            "PROJECT_DIFFERS",
        ),
        (
            {"method": Method.GRPO, "online": OnlineConfig(reward_model_version=JUDGE.replace("/p/", "/q/"))},
            "PROJECT_DIFFERS",
        ),
    ],
)
def test_a_recipe_whose_parts_do_not_fit_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(RECIPE, **changes).check()
    assert caught.value.reason == reason


def test_a_recipe_names_the_model_that_helps_its_method() -> None:
    judged = replace(RECIPE, method=Method.GRPO, online=OnlineConfig(judge_model_version=JUDGE))
    judged.check()
    assert judged.helper_model_version == JUDGE
    assert judged.settings()["online"]["judge_rubric"].startswith("Mark how well")
    assert "judge_model_version" not in judged.settings()["online"]
    taught = DistillationConfig(teacher_model_version=JUDGE)
    recipe = replace(RECIPE, method=Method.DISTILLATION, distillation=taught, online=RULED)
    recipe.check()
    assert recipe.helper_model_version == JUDGE
    assert replace(recipe, method=Method.GRPO).helper_model_version == ""


def test_a_recipe_comes_back_as_it_was_set_with_defaults_for_the_rest() -> None:
    recipe = replace(
        RECIPE,
        method=Method.GRPO,
        adaptation=Adaptation.QLORA,
        lora=LoraConfig(8, 4.0, 0.1, rank_stabilized=True),
        optimization=Optimization(learning_rate=2e-4, packing=True, seed=7),
        online=replace(RULED, generations=4),
        distillation=DistillationConfig(JUDGE, TeacherSource.ANSWERS, on_policy_share=0.25),
        pretraining=PretrainingConfig(parameters=1000),
        checks=Checks(("secret 1",), 3),
    )
    assert recipe_from_proto(applied_recipe_to_proto(recipe)) == recipe
    bare = recipe_pb2.TuningRecipe(name=RECIPE.name, method=recipe_pb2.TuningRecipe.METHOD_PRETRAINING)
    read = recipe_from_proto(bare)
    assert (read.adaptation, read.optimization.learning_rate, read.lora.alpha) == (Adaptation.FULL, 1e-3, 32)
    bare.method = recipe_pb2.TuningRecipe.METHOD_EMBEDDING
    read = recipe_from_proto(bare)
    assert (read.adaptation, read.optimization.learning_rate) == (Adaptation.FULL, 5e-5)
    bare.method = recipe_pb2.TuningRecipe.METHOD_DPO
    assert recipe_from_proto(bare).optimization.learning_rate == 1e-4


def test_a_result_is_an_adapter_or_a_whole_model() -> None:
    whole = {"hf/config.json", "hf/model.safetensors", "hf/tokenizer.json", "gguf", REPORT}
    assert media_types(whole)["hf/model.safetensors"] == "application/vnd.safetensors"
    assert media_types({*whole, "hf/vocab.txt"})["hf/vocab.txt"] == "text/plain"
    assert media_types({*ADAPTER, REPORT})[REPORT] == "application/json"
    for made in ({*ADAPTER}, {REPORT}, {*whole, "hf/code.py"}, {*whole, "../gguf"}, whole - {"gguf"}):
        with pytest.raises(PreconditionFailed) as caught:
            media_types(made)
        assert caught.value.reason == "WORKER_UNKNOWN"


def test_a_run_counts_its_tries_and_remembers_when_it_began() -> None:
    later = NOW + timedelta(seconds=60)
    first = RUN.taken(NOW)
    assert (first.state, first.attempt, first.start_time) == (RunState.RUNNING, 1, NOW)
    taken_over = first.taken(later)
    assert (taken_over.attempt, taken_over.start_time) == (2, NOW)
    assert first.given_back().taken(later).attempt == 2


def test_what_has_ended_does_not_begin_again() -> None:
    running = RUN.taken(NOW)
    for ended in (running.succeeded(RESULT, NOW), running.failed("R", "m", NOW), RUN.cancelled(NOW)):
        assert RUN_STATES.ended(ended.state)
        assert ended.end_time == NOW
        for change in (
            lambda run=ended: run.taken(NOW),
            lambda run=ended: run.cancelled(NOW),
            lambda run=ended: run.given_back(),
        ):
            with pytest.raises(IllegalTransition):
                change()


def test_a_run_that_waits_for_another_try_can_be_given_up() -> None:
    waiting = RUN.taken(NOW).given_back()
    failed = waiting.failed("OUT_OF_MEMORY", "too big", NOW)
    assert (failed.state, failed.error_reason, failed.error_message) == (RunState.FAILED, "OUT_OF_MEMORY", "too big")


def test_progress_foretells_the_end_from_the_newest_pace() -> None:
    run = RUN.taken(NOW).planned(10, "bf16").measured(metric(0, 0))
    assert run.progress.remaining_s is None
    run = run.measured(metric(2, 4))
    assert (run.progress.done, run.progress.total, run.progress.remaining_s) == (2, 10, 16.0)
    assert run.measured(metric(1, 9)).progress.remaining_s == 16.0


def test_two_checkpoints_are_kept() -> None:
    run, dropped = RUN, []
    for step in range(5):
        run, needless = run.saved(Checkpoint(step, ArtifactRef(f"{step}" * 64, 1)))
        dropped += needless
    assert [c.step for c in run.checkpoints] == [4, 3]
    assert [c.step for c in dropped] == [0, 1, 2]
    again, needless = run.saved(run.checkpoints[0])
    assert (again.checkpoints, needless) == (run.checkpoints, ())


def test_metrics_are_ordered_by_step() -> None:
    assert sorted([metric_key(10), metric_key(-1), metric_key(9)]) == [metric_key(-1), metric_key(9), metric_key(10)]


def test_a_manifest_is_read() -> None:
    body = (
        '{"schema": "mainspring.dataset.v1", "root_sha256": "root", "splits":'
        ' {"train": [{"sha256": "aa", "size_bytes": 3, "rows": 2, "rows_sha256": "bb"}], "test": []}}'
    )
    manifest = read_manifest(DATASET, body.encode())
    assert manifest.splits[TRAIN][0].file == ArtifactRef("aa", 3)
    assert (manifest.rows(TRAIN), manifest.rows("validation")) == (2, 0)


@given(st.one_of(st.binary(), st.recursive(st.none() | st.text() | st.integers(), st.lists).map(str).map(str.encode)))
def test_b1_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        read_manifest(DATASET, data)
    assert caught.value.reason == "DATASET_MISMATCH"


@pytest.mark.parametrize(
    "change",
    [{"schema": "other"}, {"root_sha256": "other"}, {"splits": []}, {"splits": {"train": [{}]}}, {"splits": None}],
)
def test_b9_a_manifest_of_other_rows_is_refused(change: dict[str, Any]) -> None:
    body = {"schema": "mainspring.dataset.v1", "root_sha256": "root", "splits": {}, **change}
    with pytest.raises(PreconditionFailed) as caught:
        read_manifest(DATASET, json.dumps(body).encode())
    assert caught.value.reason == "DATASET_MISMATCH"
    assert "publish the dataset version again" in caught.value.message
