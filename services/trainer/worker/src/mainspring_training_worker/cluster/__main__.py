"""`python -m mainspring_training_worker.cluster spec.json`: one run on a Ray cluster.

It speaks as the worker itself does (`../__main__.py`, `../progress.py`), so who starts it need not know the difference.
When a worker or its node is lost, others go on from the newest checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mainspring_training_worker.fitting import LEARNS_TEXT
from mainspring_training_worker.process import REFUSED, awaited_spec, die_with
from mainspring_training_worker.progress import Progress
from mainspring_training_worker.spec import Refused


def main() -> int:
    """Does the run that the last argument describes; returns the exit status."""
    spec: dict[str, Any] = json.loads(awaited_spec().read_text())
    cluster = spec.pop("cluster")
    die_with(spec.pop("parent_pid"))
    asked: list[int] = []
    progress, output = Progress(spec.pop("progress_fd")), Path(spec.pop("output"))
    # Nobody is told where Ray is used, and a process that is killed leaves nobody behind for long.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "5"}
    try:
        # Ray is an extra, and takes a second to import.
        from mainspring_training_worker.cluster import driver
        from mainspring_training_worker.cluster.crew import Lost, Wanted
    except ImportError:
        message = "the executor `ray` needs Ray beside the worker; install mainspring-training-worker[ray] there"
        progress.tell("failed", reason="WORKER_NOT_INSTALLED", message=message)
        return REFUSED
    wanted = Wanted(
        # The loss of other methods is more than a sum over rows; they learn in one process.
        workers=cluster["workers"] if spec["method"] in LEARNS_TEXT else 1,
        cpus=spec["threads"],
        wait_s=cluster["wait_s"],
        limits=cluster["limits"],
    )
    try:
        progress.tell("phase", phase="connecting to the cluster")
        driver.join(cluster["address"])
        # After Ray, which sets handlers of its own.
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
        return driver.run(spec, wanted, output, progress, lambda: bool(asked))
    except Refused as refusal:
        progress.tell("failed", reason=refusal.reason, message=refusal.message)
        return REFUSED
    except Lost as loss:
        if loss.status is not None:
            sys.stderr.write(f"{loss}\n")
            return loss.status
        progress.tell("failed", reason="CLUSTER_UNAVAILABLE", message=f"{loss}; look at the cluster", again=True)
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
