"""What a process and all that it has started use of the machine, sampled while it runs."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import psutil

from mainspring_trainer.adapters.gpus import Gpus, NoGpus
from mainspring_trainer.domain.tracking import Consumption, SystemMetric

SAMPLE_S = 1.0
_KILL_ROUNDS = 5
FRESH_S = 0.2
"""A sample of this age is as good as a new one."""


class GpuUse(Protocol):
    """What some processes use of the GPUs of this machine."""

    def use(self, pids: set[int], named: str = "") -> tuple[float, int, float, int]:
        """Mean utilisation in percent, bytes held, watts, and the number of GPUs in use; `named` is one of them."""
        ...


@dataclass
class Meter:
    """Samples a process tree.

    Attributes:
        pid: The process at its root.
        gpus: Who knows of the GPUs.
        gpu: Name of the GPU that the processes use, when they have told it.
        processes: Processes in the tree at the last sample.
    """

    pid: int
    gpus: GpuUse = field(default_factory=NoGpus)
    gpu: str = ""
    _total: Consumption = field(default_factory=Consumption)
    _seconds: dict[tuple[int, float], float] = field(default_factory=dict[tuple[int, float], float])
    _sampled_at: float = field(default_factory=time.monotonic)
    _sampling: threading.Lock = field(default_factory=threading.Lock)
    processes: int = 0

    @property
    def consumed(self) -> Consumption:
        """What was used until now."""
        if time.monotonic() - self._sampled_at > FRESH_S:
            self.sample()
        return self._total

    def kill_all(self) -> None:
        """Kills the whole tree, until nothing of it is left or it outruns us; whoever waits for its end sees which."""
        for _ in range(_KILL_ROUNDS):
            with suppress(psutil.Error):
                root = psutil.Process(self.pid)
                # Children first stopped, then killed: one that is dead has no children that could be found.
                tree = [root, *root.children(recursive=True)]
                for process in tree:
                    with suppress(psutil.Error):
                        process.suspend()
                for process in reversed(tree):
                    with suppress(psutil.Error):
                        process.kill()

    def sample(self) -> bool:
        """Looks once; False when the process has ended."""
        with self._sampling:
            return self._sample()

    def _sample(self) -> bool:
        # Who fled from the tree is not seen; limits, not figures, are what holds those.
        memory, found = 0, False
        pids = set[int]()
        with suppress(psutil.Error):
            root = psutil.Process(self.pid)
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.Error), process.oneshot():
                    if process.status() == psutil.STATUS_ZOMBIE:
                        continue
                    times = process.cpu_times()
                    # A process id may be used again; with its start it is unique.
                    self._seconds[process.pid, process.create_time()] = times.user + times.system
                    memory += process.memory_info().rss
                    pids.add(process.pid)
                    found = True
        self.processes = len(pids)
        if found:
            self._add(memory, pids)
        return found

    def _add(self, memory: int, pids: set[int]) -> None:
        now, before = time.monotonic(), self._total
        elapsed = max(now - self._sampled_at, 1e-6)
        self._sampled_at = now
        gpu_percent, gpu_memory, watts, gpus = self.gpus.use(pids, self.gpu)
        cpu_s = sum(self._seconds.values())
        # So short a time says nothing of a rate: processor time is counted in hundredths of a second.
        percent = 100 * (cpu_s - before.cpu_s) / elapsed if elapsed > FRESH_S / 2 else 0.0
        self._total = replace(
            before,
            cpu_s=cpu_s,
            gpu_s=before.gpu_s + gpus * elapsed,
            gpu_joules=before.gpu_joules + watts * elapsed,
            wall_s=before.wall_s + elapsed,
            peak_memory_bytes=max(before.peak_memory_bytes, memory),
            peak_gpu_memory_bytes=max(before.peak_gpu_memory_bytes, gpu_memory),
            now=SystemMetric(percent, memory, gpu_percent, gpu_memory),
        )


def meter_of(pid: int) -> Meter:
    """A meter with the GPUs of this machine, when there are some that can be asked."""
    return Meter(pid, Gpus.found() or NoGpus())
