"""Runs benchmarks by name and prints what came out; see docs/benchmarks.md.

usage: python -m bench [NAME ...] [--repeats N] [--out FILE] [--data FILE] [--max-steps N]

Without a name: stack, throughput, release, events, fidelity. Only by name, since they take long: demo, e2e,
evidence-events, evidence-evaluator, evidence-registry, evidence-statistics, train-choices, train-quality, train-queue,
train-search, train-speed, and those of `make bench-data`: data-engines, data-messy, data-near, data-pipeline.
Exit status: 0 every bar was met (a benchmark that lacks its data is skipped), 1 one was missed or a benchmark failed, 2
the command was not understood.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import (
    data_engines,
    data_messy,
    data_near,
    data_pipeline,
    events,
    evidence_evaluator,
    evidence_events,
    evidence_registry,
    evidence_statistics,
    fidelity,
    machine,
    quality,
    release,
    stack,
    table,
    throughput,
    train_choices,
    train_quality,
    train_queue,
    train_search,
    train_speed,
)
from bench.figures import Result
from bench.live import Stack
from mainspring_testkit.servers import scratch_folder

USUAL = ("stack", "throughput", "release", "events", "fidelity")
EVIDENCE = ("evidence-events", "evidence-evaluator", "evidence-registry", "evidence-statistics")
SLOW = ("demo", "e2e", *EVIDENCE, "train-choices", "train-quality", "train-queue", "train-search", "train-speed")
DATA = ("data-engines", "data-messy", "data-near", "data-pipeline")
OUT = machine.ROOT / ".build" / "bench.json"


class Runner:
    """Runs benchmarks one after the other; those that need a stack with a released version share one."""

    def __init__(self, options: argparse.Namespace, folder: Path, cleanup: AsyncExitStack, console: Console) -> None:
        self._options, self._folder, self._cleanup, self._console = options, folder, cleanup, console
        self._stack: Stack | None = None
        self._run: dict[str, Callable[[], Awaitable[Result]]] = {
            "stack": lambda: self._with_stack(lambda s: stack.measure(s, folder, options.repeats)),
            "throughput": lambda: self._with_stack(lambda s: throughput.measure(s, options.repeats)),
            "release": lambda: self._with_stack(lambda s: release.measure(s, options.repeats)),
            "events": lambda: events.measure(options.repeats),
            "fidelity": fidelity.measure,
            "evidence-events": evidence_events.measure,
            "evidence-evaluator": lambda: evidence_evaluator.measure(options.data),
            "evidence-statistics": evidence_statistics.measure,
            "evidence-registry": lambda: evidence_registry.measure(options.repeats),
            "demo": lambda: quality.demo(folder),
            "e2e": lambda: quality.e2e(folder, options.data, options.max_steps),
            "train-choices": lambda: train_choices.measure(folder / "train-choices", options.repeats),
            "train-quality": lambda: train_quality.measure(folder / "train-quality", options.data),
            "train-queue": lambda: train_queue.measure(folder / "train-queue"),
            "train-speed": lambda: train_speed.measure(folder / "train-speed"),
            "train-search": lambda: train_search.measure(folder / "train-search", options.data),
            "data-engines": lambda: data_engines.measure(folder, options.rows // 10),
            "data-messy": lambda: data_messy.measure(folder, options.messy, options.data),
            "data-near": lambda: data_near.measure(folder, options.repeats),
            "data-pipeline": lambda: data_pipeline.measure(folder, options.rows),
        }

    async def run(self, name: str) -> Result:
        """One benchmark; what fails is told in the result, so that the others still run."""
        if name in {*SLOW, *DATA, "events", "fidelity"}:
            await self._end_stack()  # Its idling would be in the figures.
        elif self._stack is None:
            self._console.print("starting a stack and releasing a first version ...")
        load, warnings = await machine.look_around(str(self._stack.data) if self._stack is not None else "")
        self._console.print(f"{name} ... ({', '.join(warnings) or 'the machine is quiet'})")
        began, host = time.monotonic(), machine.Host()
        try:
            result = await self._run[name]()
        except Exception as err:  # noqa: BLE001 - one that fails must not hide what the others measured.
            result = Result(name, error=f"{type(err).__name__}: {err}")
        stolen = host.share()
        result.seconds, result.load = time.monotonic() - began, {**load, "stolen_share": round(stolen, 4)}
        result.warnings += warnings
        if stolen > machine.STOLEN_SHARE:
            result.warnings.append(
                f"the host withheld {stolen:.0%} of the processors meanwhile; it shows in long tails"
            )
        return result

    async def _with_stack(self, measure: Callable[[Stack], Awaitable[Result]]) -> Result:
        if self._stack is None:
            made = Stack(self._folder / "stack")
            self._cleanup.push_async_callback(made.down)
            await made.up()
            await made.release_first()
            self._stack = made
        return await measure(self._stack)

    async def _end_stack(self) -> None:
        if self._stack is not None:
            await self._stack.down()
            self._stack = None


async def bench(options: argparse.Namespace, console: Console) -> int:
    """Runs everything asked for, prints the table and writes the JSON; returns the exit status."""
    task = asyncio.current_task()
    assert task is not None
    # Whatever ends us, the stack that was started is stopped.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    described, results = machine.describe(), list[Result]()
    try:
        async with scratch_folder("bench") as folder, AsyncExitStack() as cleanup:
            runner = Runner(options, folder, cleanup, console)
            for name in options.names:
                results.append(await runner.run(name))
                # What was measured is kept, whatever ends the rest.
                write(options.out, described, results)
    finally:
        table.show(results, described, console)
        console.print(f"written to {options.out}")
    return 1 if any(result.error or result.missed for result in results) else 0


def write(path: Path, described: dict[str, Any], results: Sequence[Result]) -> None:
    """Writes the JSON form, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    body = {"machine": described, "benchmarks": [result.as_json() for result in results]}
    partial.write_text(json.dumps(body, indent=2) + "\n")
    partial.rename(path)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; ends the program with status 2 when it cannot."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures what docs/benchmarks.md tells of.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(USUAL)} (all of these), or {', '.join((*SLOW, *DATA))}"
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="measurements of each figure; default 3")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="the JSON; default .build/bench.json")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="table for e2e, evidence-evaluator and data-messy; default $MAINSPRING_E2E",
    )
    parser.add_argument(
        "--max-steps", type=int, default=100, metavar="N", help="steps of e2e; default 100, 0: one pass"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        metavar="N",
        help="of data-pipeline; a tenth in data-engines; default 1,000,000",
    )
    parser.add_argument(
        "--messy",
        type=Path,
        metavar="FOLDER",
        help="dirty file with its truth for data-messy; default $MAINSPRING_MESSY",
    )
    options = parser.parse_args(arguments)
    options.data = options.data or _from_environment("MAINSPRING_E2E")
    options.messy = options.messy or _from_environment("MAINSPRING_MESSY")
    options.names = options.names or list(USUAL)
    if unknown := [name for name in options.names if name not in (*USUAL, *SLOW, *DATA)]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join((*USUAL, *SLOW, *DATA))}")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    return options


def _from_environment(name: str) -> Path | None:
    return Path(os.environ[name]) if os.environ.get(name) else None


def main() -> int:
    """The command."""
    options, console = parse(sys.argv[1:]), Console(width=max(140, Console().width))
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        return asyncio.run(bench(options, console))
    return 130


if __name__ == "__main__":
    sys.exit(main())
