"""What is watched while a model learns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from support import CHAT, LORA, OPTIMIZATION, Job, make_tokenizer, rows, shard

from mainspring_training_worker import checks, estimate
from mainspring_training_worker.batches import Example
from mainspring_training_worker.rows import Row
from mainspring_training_worker.spec import Refused, Spec


def signals(outcome: Any) -> list[str]:
    return [signal["name"] for signal in outcome.of("signal")]


def test_f19_a_rate_that_is_too_high_is_halved_from_the_last_checkpoint_until_it_works(job: Job) -> None:
    """A rate that breaks the model within a few steps, and some halvings of which do not."""
    wild = {**OPTIMIZATION, "learning_rate": 1e19, "epochs": 1.0}
    refused = job.run_here(optimization=wild, lora=LORA)
    assert refused.of("failed")[0]["reason"] == "DIVERGED"
    assert signals(refused) == ["DIVERGENCE"] * 2
    patient = {"canaries": [], "max_rollbacks": 80, "forgetting_budget_percent": 1e9}
    whole = job.run_here(optimization=wild, lora=LORA, checks=patient)
    assert whole.status == 0
    report = json.loads((whole.output / "training_report.json").read_text())
    assert report["rollbacks"] == len(whole.of("signal")) > 2
    middle = whole.of("checkpoint")[-2]["file"]
    again = job.run_here(optimization=wild, lora=LORA, checks=patient, resume_from=whole.output / middle)
    assert again.adapter_sha256 == whole.adapter_sha256


def test_a_leap_of_the_loss_is_told_from_noise() -> None:
    steady = [2.0 + 0.2 * (n % 2) for n in range(checks.RECENT_STEPS)]
    assert not checks.spikes(2.9, steady)
    assert checks.spikes(4.5, steady)
    assert not checks.spikes(40.0, steady[1:])
    assert not checks.spikes(0.2, [0.05] * checks.RECENT_STEPS)


def test_what_is_learned_by_heart_and_what_is_forgotten_is_told(job: Job) -> None:
    secret = "the code is 7391624850"
    row = {"row_id": "s", "messages": [{"role": "assistant", "content": secret}]}
    known = [{**row, "row_id": f"s{n}"} for n in range(16)]
    outcome = job.run_here(
        method="CONTINUED_PRETRAINING",
        adaptation="FULL",
        train=[shard(job.folder / "secret.parquet", known)],
        validation=[],
        optimization={**OPTIMIZATION, "learning_rate": 1e-2, "epochs": 20.0},
        checks={"canaries": [secret, "the code is 1111111111"], "max_rollbacks": 2, "forgetting_budget_percent": 1.0},
    )
    assert signals(outcome) == ["FORGETTING", "MEMORISATION"]
    measured = json.loads((outcome.output / "training_report.json").read_text())["measured"]
    assert measured["canary_0_exposure_bits"] == 6
    assert measured["canary_1_exposure_bits"] < 6
    assert measured["general_loss_after"] > measured["general_loss_before"]


def test_a_gap_between_what_is_learned_and_what_is_held_out_is_told(job: Job) -> None:
    strange = [{**r, "messages": [r["messages"][0], {"role": "assistant", "content": "QXZJKQ" * 5}]} for r in rows(6)]
    outcome = job.run_here(
        adaptation="FULL",
        validation=[shard(job.folder / "strange.parquet", strange)],
        optimization={**OPTIMIZATION, "learning_rate": 1e-2, "epochs": 5.0},
    )
    assert "OVERFITTING" in signals(outcome)


def told_rows(system: int, marked: int = 0) -> list[Row]:
    """Eight rows, so many of which have a system message, or a mark of the template in their texts."""
    made: list[Row] = []
    for number in range(8):
        ask = {"role": "user", "content": "what?<|im_end|>" if number < marked else "what?"}
        before = [{"role": "system", "content": "Be short."}] if number < system else []
        made.append(Row(str(number), (*before, ask, {"role": "assistant", "content": "that"}), None, None))
    return made


def test_b9_a_template_that_loses_what_rows_say_is_told_or_refused() -> None:
    tokenizer = make_tokenizer()
    assert checks.template_signal(tokenizer, told_rows(8)) is None
    tokenizer.chat_template = CHAT.replace("in messages %}", "in messages if m['role'] != 'system' %}")
    name, message = checks.template_signal(tokenizer, told_rows(3)) or ("", "")
    assert (name, "leaves out what `system` says in 3 of 8 rows" in message) == ("TEMPLATE_MISMATCH", True)
    with pytest.raises(Refused, match="leaves out what `system` says in 5 of 8 rows") as caught:
        checks.template_signal(tokenizer, told_rows(5))
    assert caught.value.reason == "DATASET_MISMATCH"


def test_b9_rows_with_the_templates_own_marks_are_told_or_refused() -> None:
    tokenizer = make_tokenizer()
    _, message = checks.template_signal(tokenizer, told_rows(0, marked=2)) or ("", "")
    assert "finds its own marks in the texts of 2 of 8 rows" in message
    with pytest.raises(Refused, match="rendered already"):
        checks.template_signal(tokenizer, told_rows(0, marked=6))


def test_b9_a_template_that_ends_no_answer_is_told_and_one_that_takes_no_system_message_refused(job: Job) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT.replace("'<|im_end|>\n'", "'\n'")
    _, message = checks.template_signal(tokenizer, told_rows(0)) or ("", "")
    assert "does not end 8 of 8 rows" in message
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(Refused, match="does not take messages of the roles system, user") as caught:
        checks.template_signal(tokenizer, told_rows(1))
    assert caught.value.reason == "CHAT_TEMPLATE_UNUSABLE"


def test_the_time_of_a_run_is_told_before_its_first_step(job: Job) -> None:
    phases = [line["phase"] for line in job.run_here(optimization={**OPTIMIZATION, "max_steps": 1}).of("phase")]
    assert any(phase.startswith("training: about ") and phase.endswith("of memory expected") for phase in phases)
    shape = estimate.Shape(parameters=100, layers=1, width=1, vocabulary=1)
    whole, adapter = (estimate.expected_s(shape, kind, 1000, 0, 1e6) for kind in ("FULL", "LORA"))
    assert whole == 1.5 * adapter == pytest.approx(100 * 6 * 1000 / 0.4e6)
    # Tokens that the model draws by itself are passed through it once more.
    assert estimate.expected_s(shape, "LORA", 500, 0, 1e6, drawn=500) == adapter + 100 * 2 * 500 / 0.4e6


def spec_of(job: Job, **changes: Any) -> Spec:
    """What a run of the job would be told."""
    path = job.folder / "spec.json"
    told = {"output": str(job.folder), "resume_from": None, "progress_fd": 1, "parent_pid": 1}
    path.write_text(json.dumps({**job.spec, **told, **changes}))
    return Spec.read(path)


def test_answers_that_a_model_gives_by_itself_are_part_of_the_estimate(job: Job) -> None:
    shape = estimate.Shape(parameters=1000, layers=2, width=64, vocabulary=300)
    asked = {**job.spec["distillation"], "max_answer_tokens": 100}
    by_share = {
        share: spec_of(job, method="DISTILLATION", distillation={**asked, "on_policy_share": share})
        for share in (0.0, 0.5)
    }
    assert [estimate.drawn_tokens(spec, 8) for spec in by_share.values()] == [0, 400]
    needs = [estimate.needed_bytes(shape, spec, "LORA", "fp32") for spec in by_share.values()]
    assert needs[0] < needs[1]
    # What the method does not look at does not count.
    answers = {**asked, "on_policy_share": 0.5, "source": "ANSWERS"}
    assert estimate.drawn_tokens(spec_of(job, method="DISTILLATION", distillation=answers), 8) == 0
    assert estimate.drawn_tokens(spec_of(job, method="GRPO"), 8) == 8 * 4 * 8


def test_b9_rows_that_teach_nothing_are_told_or_refused() -> None:
    good, empty = Example("g", (1, 2, 3, 4), 2), Example("e", (1, 2, 3), 2)
    assert checks.rows_signal(0, [good] * 9, 10) is None
    assert checks.rows_signal(1, [good] * 9, 10) == (
        "TRUNCATION",
        "1 of 10 rows have more than 10 tokens and are left out",
    )
    assert checks.rows_signal(0, [good, empty], 10) == ("EMPTY_TARGETS", "1 of 2 rows have an empty answer")
    for too_long, examples in ((6, [good] * 4), (0, [empty])):
        with pytest.raises(Refused) as caught:
            checks.rows_signal(too_long, examples, 10)
        assert caught.value.reason == "DATASET_MISMATCH"


def test_exposure_counts_the_bits_by_which_a_text_stands_out() -> None:
    assert checks.exposure([0.1, *([1.0] * 63)]) == 6
    assert checks.exposure([2.0, *([1.0] * 63)]) == 0
    variants = checks.canary_examples(make_tokenizer(), "id 12", 0)
    assert len({example.tokens for example in variants}) > 20
    assert math.isclose(len(variants), 64)


def test_f19_a_run_that_cannot_fit_is_refused_with_what_would(job: Job, tiny_model: Path) -> None:
    spec = spec_of(job)
    shape = estimate.Shape(parameters=135_000_000, layers=30, width=576, vocabulary=49152)
    needs = {name: estimate.needed_bytes(shape, spec, name, "fp32") for name in ("FULL", "LORA", "QLORA")}
    assert needs["FULL"] > needs["LORA"] > needs["QLORA"]
    assert estimate.needed_bytes(shape, spec, "LORA", "bf16") < needs["LORA"]
    with pytest.raises(Refused, match="ADAPTATION_QLORA needs") as caught:
        estimate.check_fits(shape, spec, "fp32", needs["LORA"] - 1)
    assert caught.value.reason == "OUT_OF_MEMORY"
    assert estimate.check_fits(shape, spec, "fp32", needs["LORA"]) == needs["LORA"]
    read = estimate.shape_of(tiny_model)
    assert (read.layers, read.width) == (2, 64)
    assert 60_000 < read.parameters < 120_000
    assert estimate.available_bytes() > 1 << 20


def test_f19_a_run_that_cannot_fit_is_refused_before_its_teacher_is_loaded(
    job: Job, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mainspring_training_worker.run.free_bytes", lambda _: 1 << 20)
    answers = {**job.spec["distillation"], "source": "ANSWERS"}
    helper = {"base_model": str(tiny_model), "adapter": None}
    refused = job.run_here(method="DISTILLATION", distillation=answers, helper=helper)
    assert refused.of("failed")[0]["reason"] == "OUT_OF_MEMORY"
    assert "asking the teacher" not in [line["phase"] for line in refused.of("phase")]
