"""What a process tree and its GPUs use; the GPUs' library is played, since few machines have one."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mainspring_testkit.waiting import eventually
from mainspring_trainer.adapters.gpus import Gpus
from mainspring_trainer.adapters.meter import Meter, meter_of

from .replicas import WORKER_PYTHON

# A parent that waits for a child that computes, so that only the tree shows what is used.
BUSY = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "hold = bytearray(64 << 20)\\nwhile True: pass"])
"""


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    yield process
    meter_of(process.pid).kill_all()
    process.wait()


async def test_the_whole_tree_is_measured_and_what_has_ended_still_counts(busy: subprocess.Popen[bytes]) -> None:
    meter = Meter(busy.pid)

    async def used() -> bool:
        return meter.consumed.cpu_s > 0.3 and meter.consumed.peak_memory_bytes > 64 << 20

    await eventually(used, within_s=60, what="the child to compute")
    assert meter.processes == 2
    assert meter.consumed.wall_s > 0
    await asyncio.to_thread(meter.kill_all)
    busy.wait()
    assert not meter.sample()
    assert meter.consumed.cpu_s > 0.3


class Refused(Exception):
    """What NVML raises."""


def nvml(**changes: Any) -> Any:
    def processes(handle: int) -> list[Any]:
        if handle == 2:
            raise Refused
        return [SimpleNamespace(pid=100 + handle, usedGpuMemory=1000), SimpleNamespace(pid=7, usedGpuMemory=None)]

    played = {
        "NVMLError": Refused,
        "nvmlDeviceGetComputeRunningProcesses": processes,
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=50 + 20 * handle),
        "nvmlDeviceGetPowerUsage": lambda _: 250_000,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=4000),
    }
    return SimpleNamespace(**{**played, **changes})


def test_only_gpus_with_our_processes_count_and_one_that_does_not_answer_is_left_out() -> None:
    gpus = Gpus(nvml(), [0, 1, 2])
    assert gpus.use({100, 101}) == (60.0, 2000, 500.0, 2)
    assert gpus.use({101}) == (70.0, 1000, 250.0, 1)
    assert gpus.use({7}) == (60.0, 0, 500.0, 2)
    assert gpus.use({1}) == (0.0, 0, 0.0, 0)


def test_a_gpu_that_a_run_names_counts_although_its_processes_have_other_numbers_there() -> None:
    gpus = Gpus(nvml(), [0, 1, 2])
    assert gpus.use({1}, "GPU-1") == (70.0, 4000, 250.0, 1)
    assert gpus.use({101}, "GPU-1") == (70.0, 1000, 250.0, 1)
    assert gpus.use({1}, "GPU-9") == (0.0, 0, 0.0, 0)


HOLDS = """
import torch
held = torch.ones(64 << 20, dtype=torch.float32, device="cuda")
print(torch.cuda.get_device_properties(0).uuid, flush=True)
while True:
    held.mul_(1.0)
    torch.cuda.synchronize()
"""


@pytest.fixture
def holding() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([WORKER_PYTHON, "-c", HOLDS], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(Gpus.found() is None, reason="needs an NVIDIA GPU and its driver")
async def test_a_real_gpu_tells_what_a_process_holds_and_draws(holding: subprocess.Popen[str]) -> None:
    gpus = Gpus.found()
    assert gpus is not None
    assert holding.stdout is not None
    uuid = (await asyncio.to_thread(holding.stdout.readline)).strip()
    if not uuid:
        pytest.skip("the worker's torch is a build for processors")
    meter = Meter(holding.pid, gpus, f"GPU-{uuid}")

    async def measured() -> bool:
        used = meter.consumed
        busy = used.now is not None and used.now.gpu_percent > 0
        return busy and used.peak_gpu_memory_bytes > 256 << 20 and used.gpu_joules > 0

    await eventually(measured, within_s=60, what="the GPU to be measured")
