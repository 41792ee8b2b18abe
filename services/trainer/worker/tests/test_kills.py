"""The worker, killed in every phase of a run: what is left lets the next one end with the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from support import Job, Outcome

PHASES = (
    "rows-read",
    "estimated",
    "loaded",
    "mid-step",
    "mid-validation",
    "mid-checkpoint",
    "checkpoint-written",
    "mid-result",
    "before-result",
    "after-result",
)
# Loads the libraries once, as the trainer's spare process does, and becomes a process for each run that it is told of.
NURSERY = """
import json, os, pathlib, sys
from mainspring_training_worker import __main__ as worker
worker._set_up(threads="1", four_bits=False)
import mainspring_training_worker.run

def live(path, point):
    os.dup2(2, 1)
    told = os.open(path.with_suffix(".told"), os.O_WRONLY | os.O_CREAT)
    spec = json.loads(path.read_text()) | {"progress_fd": told, "parent_pid": os.getppid()}
    path.write_text(json.dumps(spec))
    sys.argv[1:], sys.stdin, os.environ["MAINSPRING_CRASH_AT"] = [str(path)], open(os.devnull), point
    return worker.main()

for line in sys.stdin:
    path, point = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = live(pathlib.Path(path), point)
        finally:
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Where runs begin with their libraries loaded."""

    def __init__(self, errors: IO[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )

    def run(self, job: Job, resume_from: Path, crash_at: str) -> Outcome:
        """A run in a process of its own, which is killed at a point."""
        output, path = job.folder / "killed", job.folder / "killed.json"
        output.mkdir()
        path.write_text(json.dumps({**job.spec, "output": str(output), "resume_from": str(resume_from)}))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(path), crash_at]) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        told = [json.loads(line) for line in path.with_suffix(".told").read_text().splitlines()]
        return Outcome(status, told, output, "")

    def close(self) -> None:
        """Leaves nothing behind."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with (tmp_path_factory.mktemp("nursery") / "errors").open("w") as errors:
        made = Nursery(errors)
        yield made
        made.close()


@pytest.mark.parametrize("phase", PHASES)
def test_i6_f2_killed_in_any_phase_a_run_ends_with_the_same_weights(
    nursery: Nursery, job: Job, undisturbed: Outcome, phase: str
) -> None:
    """Each run goes on from a checkpoint and is killed before the next one was told, or at its end; the one after goes
    on from the newest that was told, as the service does it.
    """
    before = undisturbed.output / "checkpoint-00000004.safetensors"
    killed = nursery.run(job, before, f"training-worker:{phase}")
    assert killed.status == 137
    assert bool(killed.of("result")) == (phase == "after-result")
    newest = killed.newest_checkpoint if killed.of("checkpoint") else before
    resumed = job.run_here(resume_from=newest)
    assert resumed.adapter_sha256 == undisturbed.adapter_sha256
    if phase == "after-result":
        assert killed.adapter_sha256 == undisturbed.adapter_sha256
