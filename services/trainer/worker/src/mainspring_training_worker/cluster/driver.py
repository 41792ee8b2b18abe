"""Follows a run on the cluster through the loss of its workers."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from mainspring_training_worker.cluster.crew import Crew, Heard, Lost, Wanted
from mainspring_training_worker.cluster.shipping import Packer
from mainspring_training_worker.process import STOPPED
from mainspring_training_worker.progress import Progress

_CONNECT_S = 10.0
_LOSSES = 3
"""So many in a row without a checkpoint between them, and the run goes back to the trainer, which tries again later."""


def join(address: str) -> None:
    """Joins the cluster: `host:port` of its head from one of its machines, `ray://host:port` from any other.

    Raises:
        Lost: It cannot be joined.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        # Ray itself would try for half a minute.
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as err:
        raise Lost(f"the Ray cluster at {address} cannot be joined: {err}"[:500]) from err


def run(spec: Mapping[str, Any], wanted: Wanted, output: Path, progress: Progress, stopping: Callable[[], bool]) -> int:
    """Does the run; returns the exit status of the worker that led it.

    Raises:
        Refused: The nodes cannot do it.
        Lost: Its workers have died again and again, or there is none.
    """
    heard, packer, losses, seen = Heard(), Packer(), 0, 0
    while True:
        crew: Crew | None = None
        try:
            progress.tell("phase", phase="waiting for workers")
            crew = Crew.gather(wanted, progress, stopping)
            if crew is None:
                return STOPPED
            if crew.size < wanted.workers:
                message = f"{crew.size} of {wanted.workers} workers came; each does more of every step"
                progress.tell("signal", name="FEWER_WORKERS", step=heard.step, message=message)
            resume_from = str(heard.checkpoint) if heard.checkpoint is not None else spec["resume_from"]
            progress.tell("phase", phase="sending files to workers")
            crew.begin(packer.pack({**spec, "resume_from": resume_from}))
            return crew.follow(output, heard, progress, stopping)
        except Lost as loss:
            losses = losses + 1 if heard.step == seen else 1
            seen = heard.step
            if losses > _LOSSES or crew is None:
                raise
            message = f"a worker was lost and the run went on from step {heard.step}: {loss}"[:500]
            progress.tell("signal", name="WORKER_LOST", step=heard.step, message=message)
        finally:
            if crew is not None:
                crew.end()
