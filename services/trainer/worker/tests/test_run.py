"""The real process on a tiny model: what it makes, and that disturbing it changes nothing."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from support import LORA, OPTIMIZATION, Job, Outcome, make_tokenizer, rows, shard

from mainspring_modelfiles import probe
from mainspring_training_worker.process import lacks_space


def test_a_run_learns_and_leaves_everything_that_a_version_needs(undisturbed: Outcome) -> None:
    (result,) = undisturbed.of("result")
    assert set(result["files"]) == {
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter.gguf",
        "fidelity_probe.json",
        "training_report.json",
    }
    assert result["steps"] == 12
    assert result["best_validation_loss"] < result["initial_validation_loss"] - 0.3
    metrics = undisturbed.of("metric")
    assert [m["step"] for m in metrics] == list(range(13))
    assert [m["step"] for m in metrics if m["validation_loss"] is not None] == [0, 2, 4, 6, 8, 10, 12]
    config = json.loads((undisturbed.output / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "projects/p/models/base/versions/1"
    positions = probe.load((undisturbed.output / "fidelity_probe.json").read_bytes())
    assert len(positions) == 48
    assert {len(position.top) for position in positions} == {probe.TOP}
    report = json.loads((undisturbed.output / "training_report.json").read_text())
    assert report["counts"]["rows_learned"] == 48
    assert report["files"]["adapter/adapter_model.safetensors"] == undisturbed.adapter_sha256


def test_i6_killed_torn_and_stopped_a_run_ends_with_the_same_weights(job: Job, undisturbed: Outcome) -> None:
    """F2: each try goes on from the newest checkpoint of those before, as the service does it."""

    def metric(step: int) -> Callable[[dict[str, Any]], bool]:
        return lambda line: line["type"] == "metric" and line["step"] == step

    killed = job.start()
    killed.until(metric(5))
    killed.send(signal.SIGKILL)
    left = killed.end()
    assert left.status == -signal.SIGKILL
    torn = job.run(resume_from=left.newest_checkpoint, crash_at="training-worker:mid-checkpoint")
    assert torn.status == 137
    left_over = {path.name for path in torn.output.iterdir()}
    assert left_over == {".checkpoint-00000006.safetensors.partial", "last.safetensors"}
    stopped = job.start(resume_from=left.newest_checkpoint)
    stopped.until(metric(7))
    stopped.send(signal.SIGTERM)
    asked = stopped.end()
    assert asked.status == 75, asked.errors
    resumed = job.run(resume_from=asked.newest_checkpoint)
    assert resumed.of("metric")[0]["step"] > 7
    assert resumed.adapter_sha256 == undisturbed.adapter_sha256
    assert (resumed.output / "adapter.gguf").read_bytes() == (undisturbed.output / "adapter.gguf").read_bytes()


def test_i6_the_same_specification_makes_the_same_adapter_and_another_seed_another(
    job: Job, undisturbed: Outcome
) -> None:
    assert job.run().adapter_sha256 == undisturbed.adapter_sha256
    other = job.run(optimization={**OPTIMIZATION, "seed": 4})
    assert other.adapter_sha256 != undisturbed.adapter_sha256


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_i6_without_dropout_a_run_ends_the_same_on_two_threads(job: Job, precision: str) -> None:
    """The layers of `layers.py`; with dropout, as elsewhere here, PEFT's own compute."""
    plain = {"lora": LORA, "threads": 2, "precision": precision}
    first, second = (job.run(**plain) for _ in range(2))
    assert first.of("result")[0]["best_validation_loss"] < first.of("result")[0]["initial_validation_loss"] - 0.3
    assert first.adapter_sha256 == second.adapter_sha256


def test_f10_a_damaged_checkpoint_is_no_checkpoint(job: Job, undisturbed: Outcome) -> None:
    checkpoint = job.folder / "damaged.safetensors"
    checkpoint.write_bytes(undisturbed.newest_checkpoint.read_bytes()[:-100])
    again = job.run(resume_from=checkpoint)
    assert again.of("metric")[0]["step"] == 0
    assert again.adapter_sha256 == undisturbed.adapter_sha256


def test_f9_weights_that_the_disk_does_not_take_end_the_run_as_a_full_disk_does(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # Half of a module's would stay.
    process = job.start()
    process.until(lambda line: line["type"] == "phase")
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (16 << 10, 16 << 10))
    ended = process.end()
    assert (ended.status, ended.of("failed")[0]["reason"]) == (3, "INSUFFICIENT_STORAGE"), ended.errors
    assert ended.of("phase")[-1]["phase"].startswith("training: ")
    assert not list(ended.output.glob("*.safetensors"))


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: save_file({"weights": torch.zeros(10_000)}, folder / "model.safetensors"),
        lambda folder: make_tokenizer().save_pretrained(folder),
        lambda folder: (folder / "adapter.gguf").write_bytes(bytes(40_000)),
    ],
    ids=["safetensors", "tokenizers", "python"],
)
def test_f9_a_full_disk_is_known_by_whichever_library_meets_it(write: Callable[[Path], Any], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(Exception, match="File too large") as caught:
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert lacks_space(caught.value)


def test_f9_other_errors_are_not_taken_for_a_full_disk() -> None:
    assert lacks_space(SafetensorError("I/O error: No space left on device (os error 28)"))
    assert not lacks_space(SafetensorError("I/O error: Input/output error (os error 5)"))
    assert not lacks_space(SafetensorError("invalid JSON in header"))
    assert not lacks_space(FileNotFoundError(2, "No such file or directory (os error 28)"))


def test_f2_a_process_whose_parent_dies_dies_too(job: Job, tmp_path: Path) -> None:
    script = (
        "import json, os, pathlib, subprocess, sys\n"
        "spec = sys.argv[1]\n"
        "body = json.loads(pathlib.Path(spec).read_text())\n"
        "reading, writing = os.pipe()\n"
        "body |= {'progress_fd': writing, 'parent_pid': os.getpid()}\n"
        "pathlib.Path(spec).write_text(json.dumps(body))\n"
        "command = [sys.executable, '-m', 'mainspring_training_worker', spec]\n"
        "subprocess.Popen(command, pass_fds=(writing,), stdin=subprocess.DEVNULL)\n"
        "print(os.fdopen(reading).readline(), flush=True)\n"
        "os._exit(0)\n"
    )
    spec = tmp_path / "orphan.json"
    output = tmp_path / "orphan"
    output.mkdir()
    spec.write_text(json.dumps({**job.spec, "output": str(output), "resume_from": None}))
    command = [sys.executable, "-c", script, str(spec)]
    # The orphan would keep our pipe open: reading to its end waits until it has died.
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "reading rows" in done.stdout
    assert list(output.iterdir()) == []


def test_f19_a_loss_that_is_no_number_ends_the_run_with_its_reason(job: Job) -> None:
    outcome = job.run(optimization={**OPTIMIZATION, "learning_rate": 1e30})
    assert outcome.status == 3
    assert outcome.of("failed")[0]["reason"] == "DIVERGED"


def test_b9_a_shard_that_is_not_what_its_manifest_says_ends_the_run_with_its_reason(job: Job) -> None:
    outcome = job.run(train=[{**job.spec["train"][0], "rows": 49}])
    assert outcome.status == 3
    assert outcome.of("failed")[0]["reason"] == "DATASET_MISMATCH"


def test_validation_that_gets_no_better_ends_the_run_early_and_keeps_the_best(job: Job) -> None:
    strange = [
        {**row, "messages": [row["messages"][0], {"role": "assistant", "content": "QXZJKQ" * 5}]} for row in rows(6)
    ]
    outcome = job.run(
        validation=[shard(job.folder / "strange.parquet", strange)],
        optimization={**OPTIMIZATION, "learning_rate": 0.2, "patience": 2},
    )
    (result,) = outcome.of("result")
    assert result["stopped_early"]
    assert result["steps"] < 12
    losses = {m["step"]: m["validation_loss"] for m in outcome.of("metric") if m["validation_loss"] is not None}
    assert result["best_validation_loss"] == losses[result["best_step"]] == min(losses.values())


def test_a_run_from_a_parent_learns_new_rows_and_some_old_ones(job: Job, undisturbed: Outcome, tmp_path: Path) -> None:
    parent = {"adapter": str(undisturbed.output / "adapter"), "known": job.spec["train"]}
    grown = [shard(tmp_path / "grown.parquet", rows(48) + rows(16, 100))]
    outcome = job.run(train=grown, parent=parent, replay_ratio=0.5)
    (result,) = outcome.of("result")
    assert (result["rows_learned"], result["rows_replayed"]) == (24, 8)
    assert result["initial_validation_loss"] == pytest.approx(undisturbed.of("result")[0]["best_validation_loss"], 1e-4)


def test_a_run_from_a_named_version_begins_with_its_weights_and_learns_all_rows(job: Job, undisturbed: Outcome) -> None:
    """At a rate that changes no number, what comes out is what went in; a step later it is not."""
    parent = {"adapter": str(undisturbed.output / "adapter"), "known": []}
    still = job.run_here(parent=parent, validation=[], optimization={**OPTIMIZATION, "learning_rate": 1e-30})
    assert (still.of("result")[0]["rows_learned"], still.of("result")[0]["rows_replayed"]) == (48, 0)
    assert still.adapter_sha256 == undisturbed.adapter_sha256
    learned = job.run_here(parent=parent, validation=[])
    assert learned.adapter_sha256 != undisturbed.adapter_sha256
    assert learned.of("metric")[1]["train_loss"] < undisturbed.of("metric")[1]["train_loss"] - 0.3


def test_a_version_whose_adapter_is_at_other_layers_is_refused(job: Job, undisturbed: Outcome) -> None:
    folder = job.folder / "narrow"
    folder.mkdir()
    weights = load_file(undisturbed.output / "adapter" / "adapter_model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "q_proj" in name}, folder / "adapter_model.safetensors"
    )
    refused = job.run_here(parent={"adapter": str(folder), "known": []})
    assert refused.of("failed")[0]["reason"] == "PARENT_UNUSABLE"


def test_without_validation_rows_the_last_step_is_kept(job: Job) -> None:
    (result,) = job.run(validation=[]).of("result")
    assert (result["best_step"], result["steps"], result["best_validation_loss"]) == (12, 12, None)


def test_a_checkpoint_holds_no_pickle_and_names_its_run(undisturbed: Outcome) -> None:
    with safe_open(undisturbed.newest_checkpoint, framework="pt") as file:
        described = json.loads(file.metadata()["mainspring"])
        assert {name.split("/")[0] for name in file.keys()} >= {"adapter", "first_moment", "second_moment", "rng"}  # noqa: SIM118 - not a mapping.
    assert described["run"] == "projects/p/trainingRuns/r"
    assert described["state"]["step"] == 12
