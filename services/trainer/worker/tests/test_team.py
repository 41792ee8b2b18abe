"""Processes that learn one run together, and what is sent to where they run."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import LORA, OPTIMIZATION, Job, Outcome

from mainspring_training_worker.cluster.shipping import Packer


def together(job: Job, *, stop_at: int = 0, **changes: Any) -> list[Outcome]:
    """The same run in two processes; the first leads."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    team = [job.start(device="cpu", team={"rank": rank, "size": 2, "address": address}, **changes) for rank in range(2)]
    if stop_at:
        team[0].until(lambda line: line["type"] == "metric" and line["step"] == stop_at)
        team[1].send(signal.SIGTERM)  # Who is asked has the others stop as well.
    return [process.end() for process in team]


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    return load_file(outcome.output / "adapter" / "adapter_model.safetensors")


def test_two_processes_learn_what_one_does(job: Job) -> None:
    alone = job.run_here(device="cpu", lora=LORA)
    leader, follower = together(job, lora=LORA)
    assert (leader.status, follower.status) == (0, 0), leader.errors + follower.errors
    assert {line["type"] for line in follower.told} <= {"tick"}
    losses = [[m["train_loss"] for m in outcome.of("metric")] for outcome in (alone, leader)]
    # Sums are added in another order, and nothing else differs.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert weights(leader).keys() == weights(alone).keys()
    assert [m["step"] for m in leader.of("metric")] == list(range(13))


def test_i6_two_processes_that_are_stopped_and_go_on_end_with_the_same_weights(job: Job) -> None:
    """With dropout: each draws its own numbers, which depend on the step only."""
    undisturbed, _ = together(job)
    stopped, follower = together(job, stop_at=5)
    assert (stopped.status, follower.status) == (75, 75)
    resumed, _ = together(job, resume_from=stopped.newest_checkpoint)
    assert resumed.of("metric")[0]["step"] > 5
    assert resumed.adapter_sha256 == undisturbed.adapter_sha256


def test_f19_a_loss_that_is_no_number_ends_both_processes(job: Job) -> None:
    outcomes = together(job, optimization={**OPTIMIZATION, "learning_rate": 1e30})
    assert [outcome.status for outcome in outcomes] == [3, 3]
    assert {outcome.of("failed")[0]["reason"] for outcome in outcomes} == {"DIVERGED"}


def test_what_is_sent_names_every_file_by_its_digest_and_each_once(job: Job, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    parent = {"adapter": str(adapter), "known": job.spec["train"]}
    spec = {**job.spec, "parent": parent, "resume_from": None}
    shipment = Packer().pack(spec)
    assert shipment.spec["train"][0]["path"] == shipment.spec["parent"]["known"][0]["path"]
    assert shipment.spec["train"][0]["rows"] == job.spec["train"][0]["rows"]
    model = shipment.spec["base_model"]
    assert f"{model}/config.json" in shipment.files
    assert all((tmp_path / name).name == Path(name).name and not name.startswith("/") for name in shipment.files)
    assert str(tmp_path) not in str(dict(shipment.spec))
