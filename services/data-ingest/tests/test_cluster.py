"""Refining on a real Ray cluster of two machines: the same version comes out, whatever is lost meanwhile."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mainspring_data_ingest.adapters.cluster import Cluster, Kit, refined
from mainspring_data_ingest.adapters.jobs import JOB, RESULT, SourceFile
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.application.refining import RecordChunk
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.steps import Decontamination
from mainspring_data_ingest.settings import DataIngestSettings
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.ray_cluster import RayCluster, ray_cluster
from mainspring_testkit.waiting import eventually

from .test_engine import job, outcome

# The refining process with chunks of few records, and no source too small for the cluster.
PROGRAM = """
import sys
from mainspring_data_ingest.adapters import engine, refining_process
engine.CHUNK_ROWS, engine.PROGRESS_S, refining_process.SMALL_BYTES = 40, 0, 0
sys.exit(refining_process.main())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(machines=2) as made:
        yield made


def planned(folder: Path, address: str = "", rows: int = 2_000) -> Any:
    """A job with an evaluation set, which workers get sent."""
    made, held_out = job(folder, rows=rows, processes=1), folder / "evaluation.jsonl"
    held_out.write_text('{"mr": "q7", "ref": "x"}\n')
    step = Decontamination(file=ArtifactRef("0" * 64, 1))
    files = (*(() for _ in made.recipe.steps), (SourceFile(held_out, "held out", SourceFormat.JSONL, None),))
    recipe = replace(made.recipe, steps=(*made.recipe.steps, step))
    return replace(made, recipe=recipe, held_out=files, ray_address=address)


def refining(folder: Path, cluster: RayCluster, rows: int = 2_000) -> subprocess.Popen[bytes]:
    body = JOB.dump_json(planned(folder, cluster.address, rows))
    (folder / "job.json").write_bytes(body)
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    env, pipe = {**os.environ, **cluster.env}, subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env)


def ended(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """What it said until it ended."""
    assert process.stdout is not None
    assert process.stdin is not None
    told = [json.loads(line) for line in process.stdout]
    process.wait()
    process.stdin.close()
    process.stdout.close()
    return told


async def at_work(cluster: RayCluster) -> list[psutil.Process]:
    async def found() -> list[psutil.Process]:
        return cluster.running("refined")

    return await eventually(found, within_s=90, what="a task of the cluster")


async def test_f2_f19_a_cluster_gives_the_same_version_whatever_is_lost_meanwhile(
    tmp_path: Path, cluster: RayCluster
) -> None:
    native = outcome(refine(planned(tmp_path / "native"), tmp_path / "native"))
    process = refining(tmp_path / "ray", cluster)
    (await at_work(cluster))[0].kill()  # A worker in the middle of a task.
    await at_work(cluster)
    process.send_signal(signal.SIGSTOP)  # Until a machine is lost, so that this is no race.
    await asyncio.to_thread(cluster.lose_machine)
    process.send_signal(signal.SIGCONT)
    told = await asyncio.to_thread(ended, process)
    assert process.returncode == 0, told
    assert outcome(RESULT.validate_json((tmp_path / "ray" / "result.json").read_bytes())) == native
    assert native[-1].refusals.keys() >= {"EXACT_DUPLICATE", "NEAR_DUPLICATE", "EVALUATION_LEAK"}


async def test_f2_a_cancelled_ingestion_ends_its_tasks(tmp_path: Path, cluster: RayCluster) -> None:
    process = refining(tmp_path / "cancelled", cluster, rows=20_000)
    workers = await at_work(cluster)
    process.kill()
    await asyncio.to_thread(ended, process)

    async def gone() -> bool:
        return not any(worker.is_running() for worker in workers) and not cluster.running("refined")

    await eventually(gone, within_s=90, what="the end of the tasks")


def test_a_cluster_that_nobody_answers_for_is_tried_again_later(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable) as caught:
            Cluster(job(tmp_path), tmp_path, f"127.0.0.1:{nobody.getsockname()[1]}")
    assert caught.value.reason == "REFINING_CLUSTER_UNREACHABLE"


def test_a_cluster_of_another_release_refines_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = replace(Kit.of(job(tmp_path)), release="0.0.1")
    monkeypatch.setattr("ray.get", lambda sent: sent)
    told = refined([kit], kit.key, RecordChunk(0, 0, 0, []))
    assert told[:2] == ("refused", "REFINING_CLUSTER_DIFFERS")


def test_an_engine_that_is_not_there_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="MAINSPRING_RAY_ADDRESS"):
        DataIngestSettings(engine="ray")  # pyright: ignore[reportCallIssue] - the rest has defaults.
    with pytest.raises(ValueError, match="ray_address"):
        DataIngestSettings(engine="ray", ray_address="somewhere")  # pyright: ignore[reportCallIssue] - as above.
