"""Starting the stack, cold and with everything there, and what it costs while nobody asks for anything."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import psutil

from bench.figures import Bar, Figure, Result
from bench.live import MODEL, Stack
from bench.machine import BUSY_CORES, Others, cpu_s, pss_bytes
from mainspring.inference.v1 import answer_pb2

COLD_BAR_S, WARM_BAR_S, IDLE_BAR_PERCENT = 40.0, 20.0, 5.0
IDLE_S = 30.0


async def measure(stack: Stack, folder: Path, repeats: int) -> Result:
    """Measures on a stack that runs with one version released, and leaves it running.

    Args:
        stack: The stack.
        folder: Where further stacks may be made.
        repeats: How often each thing is measured.
    """
    idle, others, memory = await _idle(stack, repeats)
    by_process = await _idle_by_process(stack)
    warm: list[float] = []
    answered: list[float] = []
    for _ in range(repeats):
        await stack.down()
        began = time.monotonic()
        warm.append(await stack.up())
        await _answer(stack)
        answered.append(time.monotonic() - began)
    await stack.settled()
    await stack.down()
    cold: list[float] = []
    try:
        for number in range(repeats):
            cold.append(await _cold(folder / f"cold-{number}"))
    finally:
        await stack.up()
    return Result(
        "stack",
        [
            Figure.of("up, empty data folder", "s", cold, Bar(COLD_BAR_S)),
            Figure.of("up, with a released model", "s", warm, Bar(WARM_BAR_S)),
            Figure.of("up, with a released model, until it has answered", "s", answered),
            Figure.of("idle, whole stack", "% of a core", idle, Bar(IDLE_BAR_PERCENT)),
            Figure("idle, memory of the whole stack", "MiB", memory / 2**20),
        ],
        {
            "idle_window_s": IDLE_S,
            "others_cores_while_idle": [round(value, 2) for value in others],
            "idle_percent_by_process": by_process,
        },
        ["others were busy while it idled; see others_cores_while_idle"] if max(others) > BUSY_CORES else [],
    )


async def _idle(stack: Stack, repeats: int) -> tuple[list[float], list[float], int]:
    """Percent of a core over windows, what others used meanwhile in cores, and bytes of memory."""
    await stack.settled()
    used: list[float] = []
    busy: list[float] = []
    for _ in range(repeats):
        others, began, before = Others(str(stack.data)), time.monotonic(), cpu_s(stack.processes())
        await asyncio.sleep(IDLE_S)
        used.append(100 * (cpu_s(stack.processes()) - before) / (time.monotonic() - began))
        busy.append(others.cores())
    return used, busy, pss_bytes(stack.processes())


async def _idle_by_process(stack: Stack) -> dict[str, float]:
    """Percent of a core by process, most first; children count under the process of the stack that they belong to."""
    names = {process["pid"]: name for name, process in stack.state["processes"].items()}
    before = {process.pid: cpu_s([process]) for process in stack.processes()}
    await asyncio.sleep(IDLE_S)
    used: dict[str, float] = {}
    for process in stack.processes():
        with suppress(psutil.Error):
            line = [process.pid, *(parent.pid for parent in process.parents())]
            name = next((names[pid] for pid in line if pid in names), "supervisor")
            spent = 100 * (cpu_s([process]) - before.get(process.pid, 0.0)) / IDLE_S
            used[name] = round(used.get(name, 0.0) + spent, 2)
    return dict(sorted(used.items(), key=lambda item: -item[1]))


async def _answer(stack: Stack) -> None:
    async with stack.client() as client:
        sampling = answer_pb2.SamplingParameters(max_output_tokens=1)
        await client.inference.answer(MODEL, "Are you there?", sampling=sampling)


async def _cold(data: Path) -> float:
    data.mkdir()
    fresh = Stack(data)
    try:
        return await fresh.up()
    finally:
        await fresh.down()
