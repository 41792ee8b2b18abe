"""MLflow by its REST API 2.0; its client, which would bring pandas and more, is not needed for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import aiohttp

from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_trainer.adapters.tracked import RUN_TAG, flat, tags_of, values_of
from mainspring_trainer.domain.runs import RunState, TrainingMetric, TrainingRun

_WITHIN_S = 10.0
_STATUS = {RunState.SUCCEEDED: "FINISHED", RunState.FAILED: "FAILED", RunState.CANCELLED: "KILLED"}
_MOST_BYTES = 500


class MlflowTracker:
    """`Tracker` that an MLflow server keeps; each model is an experiment of its own."""

    def __init__(self, url: str, token: str) -> None:
        """Takes the server's base URL, and a bearer token or nothing."""
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    async def begin(self, run: TrainingRun) -> str:
        experiment = await self._experiment(run.recipe.model)
        # An earlier try may have made it and died before it could note that.
        query = {"experiment_ids": [experiment], "filter": f"tags.`{RUN_TAG}` = '{run.name}'", "max_results": 1}
        if found := (await self._post("runs/search", query)).get("runs"):
            return str(found[0]["info"]["run_id"])
        made = await self._post(
            "runs/create",
            {
                "experiment_id": experiment,
                "run_name": run.name.rpartition("/")[2],
                "start_time": _ms(run.start_time or run.create_time),
                "tags": [{"key": key, "value": value[:_MOST_BYTES]} for key, value in tags_of(run).items()],
            },
        )
        remote_id = str(made["run"]["info"]["run_id"])
        params = [{"key": key, "value": value[:_MOST_BYTES]} for key, value in flat(asdict(run.recipe)).items()]
        await self._post("runs/log-batch", {"run_id": remote_id, "params": params[:100]})
        return remote_id

    async def add(self, remote_id: str, metrics: list[TrainingMetric]) -> None:
        values = [
            {"key": key, "value": value, "timestamp": _ms(metric.time), "step": metric.step}
            for metric in metrics
            for key, value in values_of(metric).items()
        ]
        for start in range(0, len(values), 1000):
            await self._post("runs/log-batch", {"run_id": remote_id, "metrics": values[start : start + 1000]})

    async def end(self, remote_id: str, run: TrainingRun) -> None:
        if run.error_message:
            tag = {"run_id": remote_id, "key": "mainspring.error", "value": run.error_message[:_MOST_BYTES]}
            await self._post("runs/set-tag", tag)
        ended = {"run_id": remote_id, "status": _STATUS[run.state], "end_time": _ms(run.end_time)}
        await self._post("runs/update", ended)

    async def _experiment(self, model: str) -> str:
        query = {"filter": f"name = '{model}'", "max_results": 1}
        if found := (await self._post("experiments/search", query)).get("experiments"):
            return str(found[0]["experiment_id"])
        return str((await self._post("experiments/create", {"name": model}))["experiment_id"])

    async def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WITHIN_S), headers=self._headers) as session,
                session.post(f"{self._url}/api/2.0/mlflow/{path}", json=body, allow_redirects=False) as answer,
            ):
                if answer.status >= 500 or answer.status == 429:
                    raise Unavailable("TRACKER_UNAVAILABLE", f"MLflow answered {answer.status} to {path}")
                if answer.status != 200:
                    text = (await answer.content.read(_MOST_BYTES)).decode(errors="replace")
                    raise PreconditionFailed("TRACKER_REFUSED", f"MLflow answered {answer.status} to {path}: {text}")
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            message = f"MLflow at {self._url} cannot be reached ({type(err).__name__})"
            raise Unavailable("TRACKER_UNAVAILABLE", message) from err


def _ms(time: Any) -> int:
    return int(time.timestamp() * 1000)
