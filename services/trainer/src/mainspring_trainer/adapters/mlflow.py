"""MLflow by its REST API 2.0; its client, which would bring pandas and more, is not needed for that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import aiohttp

from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_trainer.domain.runs import RunState, TrainingMetric, TrainingRun

_WITHIN_S = 10.0
_STATUS = {RunState.SUCCEEDED: "FINISHED", RunState.FAILED: "FAILED", RunState.CANCELLED: "KILLED"}
_MOST_BYTES = 500
_TAG = "mainspring.training_run"
_OUTSIDE = re.compile(r"[^\w\-. /]")


class MlflowTracker:
    """`Tracker` that an MLflow server keeps; each model is an experiment of its own."""

    def __init__(self, url: str, token: str) -> None:
        """Takes the server's base URL, and a bearer token or nothing."""
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    async def begin(self, run: TrainingRun) -> str:
        experiment = await self._experiment(run.recipe.model)
        # An earlier try may have made it and died before it could note that.
        query = {"experiment_ids": [experiment], "filter": f"tags.`{_TAG}` = '{run.name}'", "max_results": 1}
        if found := (await self._post("runs/search", query)).get("runs"):
            return str(found[0]["info"]["run_id"])
        made = await self._post(
            "runs/create",
            {
                "experiment_id": experiment,
                "run_name": run.name.rpartition("/")[2],
                "start_time": _ms(run.start_time or run.create_time),
                "tags": [{"key": key, "value": value[:_MOST_BYTES]} for key, value in _tags(run).items()],
            },
        )
        remote_id = str(made["run"]["info"]["run_id"])
        params = [{"key": key, "value": value[:_MOST_BYTES]} for key, value in _flat(asdict(run.recipe)).items()]
        await self._post("runs/log-batch", {"run_id": remote_id, "params": params[:100]})
        return remote_id

    async def add(self, remote_id: str, metrics: list[TrainingMetric]) -> None:
        values = [
            {"key": key, "value": value, "timestamp": _ms(metric.time), "step": metric.step}
            for metric in metrics
            for key, value in _values(metric).items()
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


def _tags(run: TrainingRun) -> dict[str, str]:
    tags = {
        _TAG: run.name,
        "mainspring.dataset_version": run.dataset_version,
        "mainspring.base_model_version": run.recipe.base_model_version,
        "mainspring.recipe_sha256": run.recipe.sha256,
        "mainspring.cycle": run.cycle,
    }
    if run.fingerprint is not None:
        tags["mainspring.code_sha256"] = run.fingerprint.environment.code_sha256
        tags["mainspring.data_sha256"] = run.fingerprint.data_sha256
        tags["mainspring.environment_sha256"] = run.fingerprint.environment.environment_sha256
    return {key: value for key, value in tags.items() if value}


def _values(metric: TrainingMetric) -> dict[str, float]:
    values = {
        "train_loss": metric.train_loss if metric.step else None,
        "validation_loss": metric.validation_loss,
        "learning_rate": metric.learning_rate,
        "tokens_per_second": metric.tokens_per_second,
        "system/cpu_percent": metric.system.cpu_percent if metric.system else None,
        "system/memory_bytes": metric.system.memory_bytes if metric.system else None,
    }
    return {key: float(value) for key, value in values.items() if value is not None}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType] - JSON.
        else:
            found[_OUTSIDE.sub("_", f"{prefix}{key}")] = str(item)
    return found


def _ms(time: Any) -> int:
    return int(time.timestamp() * 1000)
