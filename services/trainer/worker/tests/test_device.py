"""Where a run computes, decided and estimated without a GPU; `test_gpu.py` needs one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import Job, Outcome

from mainspring_training_worker import device, estimate
from mainspring_training_worker.device import CPU
from mainspring_training_worker.process import lacks_memory, one_of
from mainspring_training_worker.spec import Helper, Refused, Spec

GPU = torch.device("cuda", 0)
SMALL = estimate.Shape(parameters=135_000_000, layers=30, width=576, vocabulary=49152)
LARGE = estimate.Shape(parameters=8_000_000_000, layers=32, width=4096, vocabulary=128_000)
CARD = 80 << 30


@pytest.fixture
def spec(job: Job) -> Spec:
    path = job.folder / "spec.json"
    beside = {"output": str(job.folder), "resume_from": None, "progress_fd": 1, "parent_pid": 1}
    steps = {**job.spec["optimization"], "batch_rows": 256, "max_sequence_tokens": 512}
    path.write_text(json.dumps({**job.spec, **beside, "optimization": steps, "micro_batch_tokens": 0}))
    return Spec.read(path)


@pytest.mark.parametrize(
    ("wanted", "usable", "alone", "expected"),
    [
        ("auto", True, True, GPU),
        ("auto", False, True, CPU),
        ("auto", True, False, CPU),
        ("cpu", True, True, CPU),
        ("cuda", True, True, GPU),
    ],
)
def test_a_gpu_is_taken_when_there_is_one_and_nobody_shares_the_run(
    monkeypatch: pytest.MonkeyPatch, wanted: str, usable: bool, alone: bool, expected: torch.device
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    assert device.choose_device(wanted, alone=alone) == expected


@pytest.mark.parametrize(("usable", "alone", "why"), [(False, True, "sees none"), (True, False, "processors only")])
def test_b1_a_gpu_that_cannot_be_used_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, usable: bool, alone: bool, why: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    with pytest.raises(Refused, match=why) as caught:
        device.choose_device("cuda", alone=alone)
    assert caught.value.reason == "DEVICE_UNAVAILABLE"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_b1_a_run_that_wants_a_gpu_where_there_is_none_ends_with_its_reason(job: Job) -> None:
    assert job.run_here(device="cuda").of("failed")[0]["reason"] == "DEVICE_UNAVAILABLE"


def test_a_report_says_what_a_run_was_computed_on(undisturbed: Outcome) -> None:
    report = json.loads((undisturbed.output / "training_report.json").read_text())
    on_processors = report["device"] == "cpu"
    assert (report["peak_gpu_memory_bytes"] is None) == on_processors
    assert undisturbed.of("plan")[0]["device"] == report["device"]


def test_one_gpu_of_those_that_are_shown_is_taken() -> None:
    assert [one_of(shown) for shown in ("0", "2,3", "GPU-a, GPU-b", "")] == ["0", "2", "GPU-a", ""]


def test_f19_who_lacks_memory_is_told_and_other_errors_are_none() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch's for a GPU."""

    assert lacks_memory(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")) == "the GPU"
    assert lacks_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`")) == "the GPU"
    assert lacks_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be")) == "the GPU"
    assert lacks_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")) == "the machine"
    assert lacks_memory(MemoryError()) == "the machine"
    assert lacks_memory(RuntimeError("CUDA error: an illegal memory access was encountered")) is None
    assert lacks_memory(RuntimeError("shapes differ")) is None


def test_tokens_at_once_are_what_half_of_a_gpus_memory_holds_and_never_what_is_free(spec: Spec) -> None:
    assert estimate.micro_batch_tokens(SMALL, spec, "bf16", None) == 256
    small, large = (estimate.micro_batch_tokens(shape, spec, "bf16", CARD) for shape in (SMALL, LARGE))
    assert 1024 < large < small
    for shape, tokens in ((SMALL, small), (LARGE, large)):
        assert estimate.needed_bytes(shape, replace(spec, micro_batch_tokens=tokens), "LORA", "bf16") <= CARD // 2
    assert estimate.micro_batch_tokens(SMALL, spec, "bf16", 1 << 30) == 1024
    assert estimate.micro_batch_tokens(SMALL, replace(spec, micro_batch_tokens=64), "bf16", CARD) == 64


def test_f19_a_run_that_a_gpu_cannot_hold_is_refused_with_what_would(spec: Spec) -> None:
    whole = replace(spec, adaptation="FULL")
    with pytest.raises(Refused, match=r"of the GPU's are free; ADAPTATION_LORA needs") as caught:
        estimate.check_fits(LARGE, whole, "bf16", CARD, gpu=True)
    assert caught.value.reason == "OUT_OF_MEMORY"
    assert estimate.check_fits(LARGE, spec, "bf16", CARD, gpu=True) < CARD


def test_a_step_is_estimated_by_its_rows_where_they_are_fewer_than_fit(spec: Spec) -> None:
    few = replace(spec, micro_batch_tokens=1 << 16, optimization=replace(spec.optimization, batch_rows=4))
    many = replace(few, optimization=replace(few.optimization, batch_rows=1024))
    small, large = (estimate.needed_bytes(SMALL, each, "LORA", "bf16") for each in (few, many))
    assert small < large / 2


def test_f19_on_a_gpu_a_validation_takes_no_more_at_once_than_was_estimated(spec: Spec) -> None:
    few = replace(spec, optimization=replace(spec.optimization, batch_rows=4))
    chosen = estimate.micro_batch_tokens(SMALL, few, "bf16", CARD)
    assert chosen == 2 * 4 * 512
    packed = replace(spec, optimization=replace(spec.optimization, packing=True))
    assert estimate.micro_batch_tokens(SMALL, packed, "bf16", CARD) == 4096
    # Where the specification says how many, the words' scores of a validation count whatever a step has.
    needs = [
        estimate.needed_bytes(SMALL, replace(few, micro_batch_tokens=tokens), "LORA", "bf16")
        for tokens in (1 << 15, 1 << 16)
    ]
    assert needs[1] - needs[0] == (1 << 15) * SMALL.vocabulary * 10


def test_f19_a_model_that_teaches_or_judges_counts_beside_the_one_that_learns(spec: Spec, tiny_model: Path) -> None:
    taught = replace(spec, method="DISTILLATION", helper=Helper(tiny_model, None), micro_batch_tokens=512)
    small, large = estimate.helper_bytes(taught), 4 * LARGE.parameters
    assert small == 4 * estimate.shape_of(tiny_model).parameters
    assert estimate.helper_bytes(spec) == 0
    alone = estimate.needed_bytes(SMALL, taught, "LORA", "bf16")
    assert estimate.needed_bytes(SMALL, taught, "LORA", "bf16", small) == alone + small
    with pytest.raises(Refused, match="choose a smaller base or a smaller model to teach or judge, or lower max"):
        estimate.check_fits(SMALL, taught, "bf16", large, helper=large)
    chosen = [
        estimate.micro_batch_tokens(SMALL, replace(taught, micro_batch_tokens=0), "bf16", CARD, helper)
        for helper in (0, large)
    ]
    assert chosen[1] < chosen[0]
    # One that only answers is gone when the student is loaded.
    answering = replace(taught, distillation=replace(taught.distillation, source="ANSWERS"))
    learning = estimate.needed_bytes(SMALL, answering, "LORA", "bf16")
    assert estimate.needed_bytes(SMALL, answering, "LORA", "bf16", small) == learning
    assert large < estimate.needed_bytes(SMALL, answering, "LORA", "bf16", large) < large + learning
    # Distributions are compared in more numbers than a loss on answers takes.
    assert alone > 1.5 * learning


def test_on_a_gpu_the_answers_to_all_prompts_of_a_step_may_be_drawn_at_once(spec: Spec) -> None:
    drawing = replace(
        spec,
        method="GRPO",
        online=replace(spec.online, generations=8, max_answer_tokens=48),
        optimization=replace(spec.optimization, batch_rows=4, max_sequence_tokens=80),
    )
    assert estimate.micro_batch_tokens(SMALL, drawing, "bf16", CARD) == 4 * 8 * (80 + 48)


def test_f19_all_answers_to_a_prompt_count_together(spec: Spec) -> None:
    drawing = replace(spec, method="GRPO", micro_batch_tokens=64)
    few, many = (
        estimate.needed_bytes(SMALL, replace(drawing, online=online), "LORA", "bf16")
        for online in (replace(drawing.online, generations=n, max_answer_tokens=128) for n in (8, 64))
    )
    kept, scored = 56 * (512 + 128) * 30 * 576 * 34, 56 * 128 * SMALL.vocabulary * 10
    assert many - few == kept + scored
    assert estimate.needed_bytes(SMALL, replace(drawing, method="SUPERVISED"), "LORA", "bf16") < few
    with pytest.raises(Refused, match=r"or lower online\.generations, online\.max_answer_tokens or max_s"):
        estimate.check_fits(SMALL, drawing, "bf16", 1 << 20)


@pytest.mark.parametrize(
    ("method", "advice"), [("PRETRAINING", "lower pretraining.parameters"), ("EMBEDDING", "choose a smaller base")]
)
def test_f19_no_adaptation_is_advised_that_the_method_forbids(spec: Spec, method: str, advice: str) -> None:
    with pytest.raises(Refused, match=f"are free; {advice}, or lower max_sequence_tokens") as caught:
        estimate.check_fits(LARGE, replace(spec, method=method, adaptation="FULL"), "bf16", CARD, gpu=True)
    assert "ADAPTATION" not in caught.value.message


def test_f19_a_result_that_the_machine_cannot_hold_is_refused_before_a_gpu_learns() -> None:
    estimate.check_result_fits(LARGE, 32 * 10**9)
    with pytest.raises(Refused, match="machine's memory, which takes 32") as caught:
        estimate.check_result_fits(LARGE, 32 * 10**9 - 1)
    assert caught.value.reason == "OUT_OF_MEMORY"


def test_f19_what_is_kept_of_a_gpu_without_need_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1 << 20]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.append(1 << 30))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free[-1], CARD))
    assert device.free_bytes(GPU) == 1 << 30


def test_steps_on_a_gpu_take_a_time_of_their_own(spec: Spec) -> None:
    seconds = [estimate.expected_s(SMALL, "LORA", 1000, 0, 8e14, gpu_steps=steps) for steps in (0, 10, 20)]
    assert seconds[0] < seconds[1]
    assert seconds[2] == 2 * seconds[1]


def test_random_states_come_back_and_those_of_another_device_are_left_alone() -> None:
    states = device.random_states(CPU)
    first = torch.rand(3)
    device.restore_random_states({**states, "rng_gpu": torch.zeros(16, dtype=torch.uint8)}, CPU)
    assert torch.equal(torch.rand(3), first)
    assert states.keys() == {"rng"}
    assert device.moved(first, CPU) is first
    assert device.all_bytes(CPU) is None
    assert device.free_bytes(CPU) > 1 << 20
    assert device.described(CPU) == {"device": "cpu"}
