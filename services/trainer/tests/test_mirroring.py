"""Runs in MLflow's own server, which is away at first."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mainspring_testkit.waiting import eventually

from .replicas import RECIPE, Run, Trainer


@dataclass
class Mlflow:
    """MLflow's own server, started when the test wants it."""

    folder: Path
    port: int
    process: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        arguments = ("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--workers", "1")
        place = ("--default-artifact-root", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port))
        with (self.folder / "mlflow.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mlflow", "server", *arguments, *place),
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "HOME": str(self.folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await eventually(self._answers, within_s=120, what="MLflow to answer")

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            os.killpg(self.process.pid, 9)
            await self.process.wait()

    async def post(self, path: str, **body: Any) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/api/2.0/mlflow/{path}", json=body) as answer,
        ):
            return await answer.json()

    async def get(self, path: str, **query: Any) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/api/2.0/mlflow/{path}", params=query) as answer,
        ):
            return await answer.json()

    async def _answers(self) -> bool:
        if self.process.returncode is not None:
            raise RuntimeError((self.folder / "mlflow.log").read_text()[-2000:])
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/health") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@pytest.fixture
async def mlflow(tmp_path: Path) -> AsyncIterator[Mlflow]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Mlflow(tmp_path / "mlflow", free.getsockname()[1])
    made.folder.mkdir()
    yield made
    await made.stop()


@pytest.mark.slow  # MLflow's server takes most of a minute to start on a busy machine.
async def test_a_run_is_mirrored_to_mlflow_whose_absence_does_not_hold_it_up(trainer: Trainer, mlflow: Mlflow) -> None:
    await trainer.start(1, mlflow_url=mlflow.url)
    await trainer.recipe(steps=12)
    version = (await trainer.dataset()).dataset_version
    wish = {"parent": "projects/p", "tuning_recipe": RECIPE, "dataset_version": version}
    name = (await trainer.call("CreateTrainingRun", **wish)).training_run.name
    assert (await trainer.watch(name))[-1].training_run.state == Run.STATE_SUCCEEDED
    await mlflow.start()

    async def mirrored() -> Any:
        experiments = (await mlflow.post("experiments/search", max_results=10)).get("experiments", [])
        ids = [experiment["experiment_id"] for experiment in experiments]
        runs = (await mlflow.post("runs/search", experiment_ids=ids)).get("runs", [])
        return next((run for run in runs if run["info"]["status"] == "FINISHED"), None)

    run = await eventually(mirrored, within_s=90, what="the run to end in MLflow")
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert (params["lora.rank"], tags["mainspring.training_run"]) == ("4", name)
    for key in ("train_loss", "reward_margin"):
        history = await mlflow.get("metrics/get-history", run_id=run["info"]["run_id"], metric_key=key)
        assert [metric["step"] for metric in history["metrics"]] == list(range(1, 13))
