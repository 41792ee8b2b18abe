"""NVIDIA's GPUs by way of NVML, where their driver is."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

import pynvml


class NoGpus:
    """A machine without GPUs that can be asked."""

    def use(self, pids: set[int], named: str = "") -> tuple[float, int, float, int]:
        """Nothing."""
        del pids, named
        return 0.0, 0, 0.0, 0


class Gpus:
    """All GPUs of this machine."""

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml, self._handles = nvml, handles

    @classmethod
    @cache
    def found(cls) -> Gpus | None:
        """The GPUs, or None when there are none or no driver."""
        nvml: Any = pynvml  # It has no types.
        try:
            nvml.nvmlInit()
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError:
            return None
        return cls(nvml, handles) if handles else None

    def use(self, pids: set[int], named: str = "") -> tuple[float, int, float, int]:
        """Mean utilisation in percent, bytes held, watts, and the number, of the GPUs that these processes use, or that
        has the name (`GPU-...`): in a container, NVML knows processes by other numbers than we do.

        A GPU that others use too is counted whole: NVML does not say whose its watts are.
        """
        percents: list[float] = []
        held, watts = 0, 0.0
        for handle in self._handles:
            with suppress(self._nvml.NVMLError):
                running = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
                ours = [process for process in running if process.pid in pids]
                if ours:
                    held += sum(process.usedGpuMemory or 0 for process in ours)
                elif named and self._nvml.nvmlDeviceGetUUID(handle) == named:
                    held += int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used)
                else:
                    continue
                percents.append(float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
                watts += self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000
        return (sum(percents) / len(percents) if percents else 0.0), held, watts, len(percents)
