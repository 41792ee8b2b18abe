"""What tuning gains, by the commands that users run: the demo, and E2E. They take many minutes each."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.figures import Bar, Figure, Result
from bench.live import Stack

DEMO_BAR_S, DEMO_BAR_GIB, ROUGE_BAR = 12 * 60.0, 8.0, 0.12
E2E_BLEU_BAR, E2E_TUNING_BAR_S = 62.0, 15 * 60.0
_PATIENCE_S = 3600.0


async def demo(folder: Path) -> Result:
    """Runs `mainspring demo` in a fresh folder; its stack is stopped afterwards."""
    stack = Stack(folder / "demo")
    began = time.monotonic()
    try:
        printed = await stack.run("demo", "--data", str(stack.data), "--json", within_s=_PATIENCE_S)
        seconds = time.monotonic() - began
    finally:
        await stack.down()
    report: dict[str, Any] = json.loads(printed)
    first = report["turns"][0]
    figures = [
        Figure("whole demo", "s", seconds, bar=Bar(DEMO_BAR_S)),
        Figure("peak memory of the whole stack", "GiB", report["peak_memory_bytes"] / 2**30, bar=Bar(DEMO_BAR_GIB)),
        *_gains(first["evaluation"]["scorers"]),
    ]
    details = {"steps_s": report["steps_s"], "turns": report["turns"], "answers": report["answers"]}
    return Result("demo", figures, details)


async def e2e(folder: Path, table: Path | None, max_steps: int) -> Result:
    """Runs `mainspring flywheel run` on a table with the columns `mr` and `ref`.

    Args:
        folder: Where the stack may have its data.
        table: The table; None for $MAINSPRING_E2E.
        max_steps: Most steps of 16 rows; 0 takes one pass over all rows.

    Raises:
        FileNotFoundError: No table is named; the message says how.
    """
    source = table or Path(os.environ.get("MAINSPRING_E2E", ""))
    if not source.is_file():
        raise FileNotFoundError("name the E2E table (CSV with the columns mr and ref) by --data or MAINSPRING_E2E")
    stack = Stack(folder / "e2e")
    columns = ("--input-column", "mr", "--target-column", "ref")
    size = ("--max-steps", str(max_steps))
    try:
        await stack.up()
        arguments = ("--data", str(source.resolve()), *columns, *size, "--stack", str(stack.data), "--json")
        outcome: dict[str, Any] = json.loads(await stack.run("flywheel", "run", *arguments, within_s=_PATIENCE_S))
    finally:
        await stack.down()
    results = {result["scorer"]: result for result in outcome["evaluation"]["results"]}
    bleu, run = results["bleu"], outcome["run"]
    tuning_s = (datetime.fromisoformat(run["end_time"]) - datetime.fromisoformat(run["start_time"])).total_seconds()
    figures = [
        Figure("BLEU of the tuned model", "BLEU", bleu["candidate"]["value"], bar=Bar(E2E_BLEU_BAR, at_least=True)),
        Figure("BLEU of the base model", "BLEU", bleu["baseline"]["value"]),
        Figure("time of tuning", "s", tuning_s, bar=Bar(E2E_TUNING_BAR_S)),
    ]
    details = {
        "max_steps": max_steps,
        "result": outcome["result"],
        "results": results,
        "training": run.get("result"),
    }
    return Result("e2e", figures, details)


def _gains(scorers: dict[str, Any]) -> list[Figure]:
    """Gain over the base with the lower end of its interval, for the scorers that have bars."""
    made: list[Figure] = []
    for name, bar in (("rouge_l", Bar(ROUGE_BAR, at_least=True)), ("bleu", None)):
        values = scorers[name]
        interval = f"{values['baseline']:.3g} to {values['candidate']:.3g}, 95 % interval of the gain"
        interval += f" {values['difference_low']:.3g} to {values['difference_high']:.3g}"
        made.append(Figure(f"{name}, gain", name, values["difference"], bar=bar, note=interval))
        low = values["difference_low"]
        made.append(Figure(f"{name}, lower end of the gain's interval", name, low, bar=Bar(0, at_least=True)))
    return made
