"""Supervised tuning of an adapter on SmolLM2-135M: useful tokens a second and peak memory beside TRL's SFTTrainer with
its defaults, on the same rows in the same run; what share of this machine's matrix products that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.children import run
from bench.figures import Bar, Figure, Result
from bench.machine import ROOT, TRAIN_PYTHON

TIMES_TRL_BAR, CHECKPOINT_BAR_PERCENT = 1.3, 3.0
_PARAMETERS = 134_515_008
_FLOP_PER_TOKEN = 4 * _PARAMETERS
"""Forwards and backwards through frozen weights, which get no gradients of their own."""
_WORKER = ROOT / "bench" / "workers" / "tuning.py"


async def measure(folder: Path) -> Result:
    """Each side once, one after the other, in processes of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    await _worker("prepare", folder)
    peak = await _worker("peak", folder)
    ours, packed, trl = (
        await _worker("ours", folder),
        await _worker("ours", folder, "packing"),
        await _worker("trl", folder),
    )
    speed, packed_speed, trl_speed = (side["tokens"] / side["steps_s"] for side in (ours, packed, trl))
    share = speed * _FLOP_PER_TOKEN / peak[ours["precision"]]
    memory = ours["peak_rss_bytes"] / trl["peak_rss_bytes"]
    figures = [
        Figure("useful tokens a second, ours", "tokens/s", speed, note=f"{ours['precision']}, {ours['tokens']} tokens"),
        Figure("useful tokens a second, ours with packing", "tokens/s", packed_speed),
        Figure("useful tokens a second, SFTTrainer", "tokens/s", trl_speed, note=f"{trl['tokens']} tokens"),
        Figure("ours over SFTTrainer", "times", speed / trl_speed, bar=Bar(TIMES_TRL_BAR, at_least=True)),
        Figure("peak memory, ours", "GiB", ours["peak_rss_bytes"] / (1 << 30)),
        Figure("peak memory, SFTTrainer", "GiB", trl["peak_rss_bytes"] / (1 << 30)),
        Figure("peak memory, ours over SFTTrainer", "times", memory, bar=Bar(1.0)),
        Figure("matrix products, fp32", "GFLOP/s", peak["fp32"] / 1e9),
        Figure("matrix products, bf16", "GFLOP/s", peak["bf16"] / 1e9),
        Figure("share of the products' peak, 4 operations a parameter and token", "percent", 100 * share),
        Figure("checkpoints", "percent of a run", 100 * ours["checkpoint_share"], bar=Bar(CHECKPOINT_BAR_PERCENT)),
    ]
    return Result("train-speed", figures, {"rows": 160, "batch_rows": 8, "rank": 16, "trl": trl["defaults"]})


async def _worker(which: str, folder: Path, *more: str) -> dict[str, Any]:
    return json.loads((await run(TRAIN_PYTHON, _WORKER, which, folder, *more, within_s=600)).splitlines()[-1])
