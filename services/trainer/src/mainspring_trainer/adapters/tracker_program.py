"""Writes one run as an offline experiment of a tracker: reads the run from stdin, leaves files, prints where.

    python -m mainspring_trainer.adapters.tracker_program < run.json

Document: `{"tracker": "comet" | "wandb", "folder": "", "id": "", "project": "", "name": "", "settings": {}, "tags": {},
"metrics": [{"step": 0, "values": {}}], "succeeded": true, "error": ""}`. It imports the tracker's own client and
nothing of ours, so it may run in an environment that has only that. What it leaves is uploaded by whoever owns the
account: `comet upload FILE`, or `wandb sync FOLDER`. A run that stands there already is not written again.

Exit status 0 prints `{"path": ""}`; 2 prints `{"reason": "", "message": ""}`: it cannot be. Any other is a failure.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

REFUSED = 2
_PACKAGES = {"comet": "comet_ml", "wandb": "wandb"}
_NOT_LOGGED = (
    "log_code",
    "log_graph",
    "log_git_metadata",
    "log_git_patch",
    "log_env_details",
    "auto_param_logging",
    "auto_metric_logging",
    "auto_output_logging",
    "parse_args",
)
"""What Comet's client would gather by itself: code, surroundings, arguments."""


def comet(run: Mapping[str, Any], scratch: Path) -> Path:
    """An archive of a Comet experiment, whose key is the run's id."""
    client: Any = importlib.import_module("comet_ml")
    experiment = client.OfflineExperiment(
        project_name=run["project"],
        experiment_key=run["id"].replace("-", ""),
        offline_directory=str(scratch),
        display_summary_level=0,
        **dict.fromkeys(_NOT_LOGGED, False),
    )
    experiment.set_name(run["name"])
    experiment.log_parameters(run["settings"])
    experiment.log_others(run["tags"])
    for metric in run["metrics"]:
        experiment.log_metrics(metric["values"], step=metric["step"])
    experiment.log_other("mainspring.succeeded", run["succeeded"])
    if run["error"]:
        experiment.log_other("mainspring.error", run["error"])
    experiment.end()
    (archive,) = scratch.glob("*.zip")
    return archive


def wandb(run: Mapping[str, Any], scratch: Path) -> Path:
    """The folder of a W&B run, whose id is the run's."""
    client: Any = importlib.import_module("wandb")
    settings = client.Settings(
        mode="offline",
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    made = client.init(
        project=run["project"],
        id=run["id"],
        name=run["name"],
        dir=str(scratch),
        config={**run["settings"], **run["tags"]},
        notes=run["error"] or None,
        settings=settings,
    )
    for metric in run["metrics"]:
        made.log(metric["values"], step=metric["step"])
    made.finish(exit_code=0 if run["succeeded"] else 1)
    (folder,) = (scratch / "wandb").glob("offline-run-*")
    return folder


_WRITERS: dict[str, Callable[[Mapping[str, Any], Path], Path]] = {"comet": comet, "wandb": wandb}


def write(run: Mapping[str, Any]) -> Path:
    """Writes the run below its folder, whole or not at all; returns where it stands."""
    folder = Path(run["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    short = run["id"].replace("-", "") if run["tracker"] == "comet" else run["id"]
    for known in folder.glob(f"*{short}*"):
        return known
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
        made = _WRITERS[run["tracker"]](run, Path(scratch))
        return made.rename(folder / made.name)


def main() -> int:
    """The command; see the module's text."""
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    run = json.load(sys.stdin)
    package = _PACKAGES[run["tracker"]]
    status, answer = 0, dict[str, str]()
    try:
        importlib.import_module(package)
    except ImportError:
        message = f"{package} is not installed for tracker_python; install 'mainspring-trainer[{run['tracker']}]' there"
        status, answer = REFUSED, {"reason": "TRACKER_NOT_INSTALLED", "message": message}
    else:
        answer = {"path": str(write(run))}
    with os.fdopen(answer_fd, "w", encoding="utf-8") as out:
        json.dump(answer, out)
    return status


if __name__ == "__main__":
    sys.exit(main())
