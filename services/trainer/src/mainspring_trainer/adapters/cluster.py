"""A Ray cluster that does the work of training processes; Ray itself is their affair, and nothing here imports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mainspring_trainer.domain.tracking import Consumption, SystemMetric

MODULE = "mainspring_training_worker.cluster"


@dataclass(frozen=True)
class Cluster:
    """Where the work is done, and by how many.

    Attributes:
        address: `host:port` of its head from one of its machines, `ray://host:port` from any other.
        token: What it asks of everybody who joins; empty when it asks for nothing.
        workers: Processes that learn a run together.
        wait_s: Longest wait for all of them; after that those that are there begin.
    """

    address: str
    token: str
    workers: int
    wait_s: float

    def described(self, *, file_bytes: int, memory_bytes: int) -> dict[str, Any]:
        """What the process is told beside the run's specification; no secret, since it is written to a file."""
        return {
            "address": self.address,
            "workers": self.workers,
            "wait_s": self.wait_s,
            "limits": {"file_bytes": file_bytes, "memory_bytes": memory_bytes},
        }

    def environment(self) -> dict[str, str]:
        """What the process finds in its environment."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if self.token else {}


def used_elsewhere(told: Mapping[str, Any], before: Consumption) -> Consumption:
    """What a run's workers have used on their machines, by what the process tells."""
    memory = int(told["memory_bytes"])
    peak = max(memory, before.peak_memory_bytes)
    return Consumption(cpu_s=float(told["cpu_s"]), peak_memory_bytes=peak, now=SystemMetric(0.0, memory))
