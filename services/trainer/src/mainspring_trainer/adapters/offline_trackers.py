"""Runs as offline experiments of Comet and W&B, written by the trackers' own clients in a process of their own.

Their formats are theirs alone, so their clients write them; these bring much, start threads and processes, and read
settings and keys from wherever they find some, so they get a process with an empty home and nothing of ours in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_svckit.names import ModelName, TrainingRunName
from mainspring_trainer.adapters import tracker_program
from mainspring_trainer.adapters.tracked import flat, tags_of, values_of
from mainspring_trainer.domain.runs import RunState, TrainingMetric, TrainingRun

_WITHIN_S = 600.0


class OfflineTracker:
    """`Exporter` that leaves a run's experiment below a folder: a file of Comet's, or a folder of W&B's."""

    def __init__(self, tracker: str, folder: Path, python: str) -> None:
        """Takes `comet` or `wandb`, where experiments go, and an interpreter that has the tracker's client."""
        self._tracker, self._folder, self._python = tracker, folder, python

    async def write(self, run: TrainingRun, metrics: Sequence[TrainingMetric]) -> None:
        with tempfile.TemporaryDirectory(prefix="mainspring-tracker-") as home:
            child = await asyncio.create_subprocess_exec(
                # Isolated: neither this folder nor anything of the environment is looked through for modules.
                *(self._python, "-I", tracker_program.__file__),
                cwd=home,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "LANG": "C.UTF-8"},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(_WITHIN_S):
                    out, err = await child.communicate(json.dumps(self._document(run, metrics)).encode())
            except TimeoutError as late:
                raise Unavailable("TRACKER_UNAVAILABLE", f"the client of {self._tracker} does not end") from late
            finally:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
        if child.returncode == tracker_program.REFUSED:
            refusal = json.loads(out)
            raise PreconditionFailed(refusal["reason"], refusal["message"])
        if child.returncode != 0:
            last = err.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise Unavailable("TRACKER_UNAVAILABLE", f"the client of {self._tracker} failed: {last[0][:300]}")

    def _document(self, run: TrainingRun, metrics: Sequence[TrainingMetric]) -> dict[str, Any]:
        named = TrainingRunName.parse(run.name)
        return {
            "tracker": self._tracker,
            "folder": str((self._folder / named.project).absolute()),
            "id": named.run,
            "project": ModelName.parse(run.recipe.model).model,
            "name": named.run,
            "settings": flat(asdict(run.recipe)),
            "tags": tags_of(run),
            "metrics": [{"step": metric.step, "values": values_of(metric)} for metric in metrics],
            "succeeded": run.state is RunState.SUCCEEDED,
            "error": run.error_message,
        }
