"""On a real GPU: that a run learns there, ends the same when it is killed, and says what it lacks.

The other tests of this folder run on one too: `MAINSPRING_TEST_DEVICE=cuda` (docs/adr/0030).
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from support import LORA, OPTIMIZATION, Job, Outcome
from test_methods import digest

from mainspring_training_worker.device import choose_device, described, free_bytes
from mainspring_training_worker.model import choose_precision
from mainspring_training_worker.process import lacks_memory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU and a CUDA build of torch")
GPU: dict[str, Any] = {"device": "cuda", "precision": "auto", "micro_batch_tokens": 0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Outcome]:
    """A run with dropout, undisturbed."""
    from support import make_job

    made = make_job(tmp_path_factory.mktemp("whole"), tiny_model)
    process = made.start(**GPU)
    yield process.end()
    process.close()


def test_a_run_on_a_gpu_learns_in_bf16_and_its_report_names_the_gpu(whole: Outcome) -> None:
    assert whole.status == 0, whole.errors
    (result,) = whole.of("result")
    assert result["best_validation_loss"] < result["initial_validation_loss"] - 0.3
    (plan,) = whole.of("plan")
    assert plan["gpu"].startswith("GPU-")
    report = json.loads((whole.output / "training_report.json").read_text())
    assert report["device"] == torch.cuda.get_device_name()
    assert report["precision"] == choose_precision("auto", torch.device("cuda", 0))
    assert report["micro_batch_tokens"] > 1024
    assert report["peak_gpu_memory_bytes"] > 1 << 20


def test_i6_killed_on_a_gpu_and_resumed_a_run_ends_with_the_same_weights(job: Job, whole: Outcome) -> None:
    """With dropout, whose random numbers are the GPU's own."""
    killed = job.start(**GPU)
    killed.until(lambda line: line["type"] == "metric" and line["step"] == 5)
    killed.send(signal.SIGKILL)
    left = killed.end()
    assert left.status == -signal.SIGKILL
    with safe_open(left.newest_checkpoint, framework="pt") as file:
        assert "rng_gpu" in file.keys()  # noqa: SIM118 - not a mapping.
    resumed = job.run(**GPU, resume_from=left.newest_checkpoint)
    assert resumed.status == 0, resumed.errors
    assert resumed.of("metric")[0]["step"] > 3
    assert resumed.adapter_sha256 == whole.adapter_sha256


@pytest.mark.parametrize("adaptation", ["LORA", "QLORA", "FULL"])
def test_i6_each_adaptation_learns_in_bf16_and_goes_on_bit_by_bit(job: Job, adaptation: str) -> None:
    rate = 3e-3 if adaptation == "FULL" else OPTIMIZATION["learning_rate"]
    changes: dict[str, Any] = {
        **GPU,
        "adaptation": adaptation,
        "lora": LORA,
        "optimization": {**OPTIMIZATION, "learning_rate": rate},
    }
    made = job.run_here(**changes)
    assert made.status == 0, made.told[-1]
    (result,) = made.of("result")
    assert result["best_validation_loss"] < result["initial_validation_loss"] - 0.3
    again = job.run_here(**changes, resume_from=made.output / "checkpoint-00000004.safetensors")
    assert digest(again) == digest(made)


def test_f19_a_run_that_no_gpu_holds_is_refused_before_it_is_loaded(job: Job) -> None:
    many = {**OPTIMIZATION, "batch_rows": 1 << 20, "max_sequence_tokens": 512}
    outcome = job.run(**{**GPU, "micro_batch_tokens": 1 << 28}, optimization=many)
    assert outcome.status == 3
    (failed,) = outcome.of("failed")
    assert failed["reason"] == "OUT_OF_MEMORY"
    assert "of the GPU's are free" in failed["message"]


def test_f19_a_gpu_that_runs_out_of_memory_is_told_from_a_machine_that_does(job: Job) -> None:
    gpu = choose_device("cuda", alone=True)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        with pytest.raises(RuntimeError) as caught:
            job.run_here(**GPU, adaptation="FULL")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert lacks_memory(caught.value) == "the GPU"
    assert free_bytes(gpu) > 0
    assert described(gpu)["device"] == torch.cuda.get_device_name()
