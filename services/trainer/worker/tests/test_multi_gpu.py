"""Runs on several GPUs, checked on a machine without any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mainspring_training_worker import multi_gpu
from mainspring_training_worker.multi_gpu import Wanted
from mainspring_training_worker.spec import Refused


@pytest.fixture
def wanted(tiny_model: Path) -> Wanted:
    return Wanted(tiny_model, gpus=4, gpu_bytes=80 * 10**9, adaptation="LORA", rank=4, tokens=128)


def test_accelerate_takes_the_configuration_and_shards_each_layer_as_one(wanted: Wanted, tmp_path: Path) -> None:
    found = multi_gpu.dry_run(wanted, tmp_path / "accelerate.yaml")
    assert (found.layer, found.units) == ("LlamaDecoderLayer", 2)
    assert 0 < found.learned < found.parameters / 2
    written = yaml.safe_load((tmp_path / "accelerate.yaml").read_text())
    assert (written["distributed_type"], written["num_processes"]) == ("FSDP", 4)
    whole = multi_gpu.dry_run(replace(wanted, adaptation="FULL"), tmp_path / "accelerate.yaml")
    assert whole.learned == whole.parameters < found.parameters


def test_f19_what_does_not_fit_is_refused_with_the_number_of_gpus_that_would_do(wanted: Wanted, tmp_path: Path) -> None:
    whole = replace(wanted, adaptation="FULL", gpus=1)
    one, four = (multi_gpu.dry_run(replace(whole, gpus=gpus), tmp_path / "a").needed_bytes for gpus in (1, 4))
    assert four < one
    with pytest.raises(Refused, match="4 of them would do") as caught:
        multi_gpu.dry_run(replace(whole, gpu_bytes=four), tmp_path / "a")
    assert caught.value.reason == "OUT_OF_MEMORY"


def test_b1_a_layer_that_the_base_does_not_have_is_refused(
    wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_gpu, "_layer_of", lambda _: "NoSuchLayer")
    with pytest.raises(Refused, match="NoSuchLayer") as caught:
        multi_gpu.dry_run(wanted, tmp_path / "a")
    assert caught.value.reason == "CONFIGURATION_UNUSABLE"
