"""Training on one CUDA GPU: speed beside TRL's SFTTrainer, and a search against the recipe that it starts from.

    python -m bench.train_gpu speed FOLDER [--small]       useful tokens a second, peak memory, share of peak
    python -m bench.train_gpu search FOLDER --data E2E     needs Optuna beside this

`python -m bench.train_quality PART DATA --gpu` measures quality there. `--small` tries the commands on processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.children import run
from bench.figures import Bar, Figure
from bench.machine import ROOT, TRAIN_PYTHON
from bench.train_quality import Bench, recipe, row
from mainspring_trainer.domain.recipes import LoraConfig, Optimization

_WORKER = ROOT / "bench" / "workers" / "tuning.py"
_SHAPES = {
    "135 M, short rows": (320, 3, False),
    "1.1 B, long rows": (160, 60, True),
    "135 M, long rows": (320, 60, False),
}
"""Rows, most sentences that are added to an answer, and whether the base is the large one; else it is SmolLM2."""
_SIDES = {
    "ours": ("ours",),
    "SFTTrainer": ("trl",),
    "SFTTrainer, activations kept": ("trl", "kept"),
    "ours, packed": ("ours", "packing"),
    "ours, with our layer": ("ours", "quick"),
    "ours, any order of sums": ("ours", "loose"),
}
TRIALS, AT_ONCE, STEPS, SEEDS = 12, 4, 40, (11, 12, 13)


def speed(folder: Path, small: bool) -> Iterator[Figure]:
    """Each side once, one after the other, in processes of their own."""
    where = [] if small else ["gpu"]
    peak = _worker("peak", folder, *where)
    for name in ("fp32", "bf16"):
        yield Figure(f"matrix products, {name}", "TFLOP/s", peak[name] / 1e12)
    for number, (name, (rows, sentences, large)) in enumerate(list(_SHAPES.items())[: 1 if small else None]):
        out = folder / str(number)
        out.mkdir(parents=True)
        _worker("prepare", out, str(24 if small else rows), str(sentences))
        parameters = _worker("large", out)["parameters"] if large else 134_515_008
        speeds: dict[str, float] = {}
        for side, (which, *more) in _SIDES.items():
            told = _worker(which, out, *more, *where)
            speeds[side] = told["tokens"] / told["steps_s"]
            share = 100 * speeds[side] * 4 * parameters / peak["bf16"]
            held = told.get("peak_gpu_bytes", told["peak_rss_bytes"]) / (1 << 30)
            note = f"peak memory {held:.2f} GiB, {share:.1f} % of the products' peak, {told['tokens']:.0f} tokens"
            yield Figure(f"{name}: useful tokens a second, {side}", "tokens/s", speeds[side], note=note)
        best = max(speeds["SFTTrainer"], speeds["SFTTrainer, activations kept"])
        yield Figure(f"{name}: ours over SFTTrainer's better", "times", speeds["ours"] / best)


def search(bench: Bench) -> list[Figure]:
    """A study of the rate, the warm-up and the rank; the winner and the recipe are tuned anew with other seeds."""
    import optuna

    rows = [row(prompt, answer) for prompt, answers in bench.table("train").items() for answer in answers[:2]]
    bench.base()

    def tuned(name: str, lora: LoraConfig, **changes: Any) -> float:
        asked: dict[str, Any] = {"max_steps": STEPS, "batch_rows": 16, "validate_every_steps": 10, **changes}
        wanted = replace(recipe(), lora=lora, optimization=Optimization(**asked))
        _, told = bench.tune(name, bench.base(), wanted, rows)
        return float(told["best_validation_loss"])

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1, constant_liar=True))

    def suggested(trial: Any) -> tuple[LoraConfig, dict[str, Any]]:
        rank = trial.suggest_categorical("rank", [4, 8, 16, 32])
        return LoraConfig(rank=rank), {
            "learning_rate": trial.suggest_float("rate", 3e-4, 2e-2, log=True),
            "warmup_percent": trial.suggest_float("warmup", 1, 40),
        }

    def tried(trial: Any) -> float:
        lora, changes = suggested(trial)
        return tuned(f"trial-{trial.number}", lora, **changes)

    study.optimize(tried, n_trials=TRIALS, n_jobs=AT_ONCE)
    lora, changes = suggested(optuna.trial.FixedTrial(study.best_params))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        plain = [pool.submit(tuned, f"recipe-{seed}", LoraConfig(), seed=seed) for seed in SEEDS]
        found = [pool.submit(tuned, f"winner-{seed}", lora, seed=seed, **changes) for seed in SEEDS]
    gains = [p.result() - f.result() for p, f in zip(plain, found, strict=True)]
    return [
        Figure.of("the recipe's validation loss", "nats", [p.result() for p in plain]),
        Figure.of(
            "the winner's, same steps and rows", "nats", [f.result() for f in found], note=str(study.best_params)
        ),
        Figure("smallest gain over the seeds", "nats", min(gains), bar=Bar(0.0, at_least=True)),
    ]


def _worker(which: str, folder: Path, *more: str) -> dict[str, Any]:
    told = asyncio.run(run(TRAIN_PYTHON, _WORKER, which, folder, *more, within_s=600))
    return json.loads(told.splitlines()[-1])


def main() -> int:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.train_gpu")
    parser.add_argument("part", choices=("speed", "search"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.data, given.folder, gpu=not given.small)
    for figure in speed(given.folder, given.small) if given.part == "speed" else search(bench):
        print(f"{figure.name}: {figure.value:.4g} {figure.unit}  {figure.note}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
