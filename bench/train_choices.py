"""What each choice of the worker's steps on processors is worth: one changed at a time, SmolLM2-135M, an adapter."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.children import ChildFailed, run
from bench.figures import Figure, Result
from bench.machine import ROOT, TRAIN_PYTHON

CHOICES = {
    "as-it-comes": "as it comes: 256 tokens at once, rows of a step by length, our layers, answers' positions",
    "512-tokens": "512 tokens at once",
    "1024-tokens": "1,024 tokens at once",
    "one-thread": "one thread",
    "other-precision": "base in the other precision",
    "packing": "packing",
    "ungrouped": "rows of a step as they come",
    "peft-layers": "PEFT's layers",
    "all-positions": "vocabulary at all positions",
    "compiled": "torch.compile",
}
ROWS, LIMIT_S = 72, 300.0
_WORKERS = ROOT / "bench" / "workers"


async def measure(folder: Path, repeats: int) -> Result:
    """Each choice in a process of its own, all in turns, `repeats` times."""
    folder.mkdir(parents=True, exist_ok=True)
    await run(TRAIN_PYTHON, _WORKERS / "tuning.py", "prepare", folder, str(ROWS), within_s=300)
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    errors: dict[str, str] = {}
    for number in range(repeats):
        for choice in CHOICES:
            try:
                said = await run(TRAIN_PYTHON, _WORKERS / "choices.py", folder, choice, str(number), within_s=LIMIT_S)
            except ChildFailed as err:
                errors[choice] = str(err)[-500:]
                continue
            seen[choice].append(json.loads(said.splitlines()[-1]))
    figures: list[Figure] = []
    for choice, runs in seen.items():
        memory = median(one["peak_rss_bytes"] for one in runs) / (1 << 30)
        note = f"{runs[0]['precision']}, peak {memory:.2f} GiB"
        figures.append(Figure.of(CHOICES[choice], "tokens/s", [r["tokens"] / r["steps_s"] for r in runs], note=note))
    unmeasured = [f"{CHOICES[choice]}: {error.splitlines()[-1]}" for choice, error in errors.items()]
    return Result("train-choices", figures, {"rows": ROWS, "errors": errors}, unmeasured)
