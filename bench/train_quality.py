"""What training gains on real data: E2E by LoRA, DPO from real preferences, distillation into a smaller student.

    python -m bench train-quality --data FOLDER     three parts, on FOLDER/train.csv and FOLDER/eval.csv; without
                                                    --data in the folder of the file that MAINSPRING_E2E names
    python -m bench.train_quality PART FOLDER       one part; what was made before is taken from --work

Parts are `e2e`, `dpo` and `distill` (from a teacher's answers), which the first command measures, and `distill-logits`
(from its distributions) and `online` (GRPO), which take hours without a GPU. The worker tunes in its own process as the
trainer starts it; llama.cpp, or transformers with --gpu, answers the questions of `eval.csv`, of which nothing was
learned, and sacrebleu compares with all references.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
from sacrebleu.metrics.bleu import BLEU

from bench.figures import Bar, Figure, Result
from bench.machine import ROOT
from mainspring_trainer.domain.recipes import (
    DistillationConfig,
    LoraConfig,
    Method,
    OnlineConfig,
    Optimization,
    Rule,
    TeacherSource,
    TuningRecipe,
)

PYTHON = ROOT / ".venv-train" / "bin" / "python"
BLEU_BAR, TUNING_BAR_S, RECOVERED_BAR = 67.0, 15 * 60.0, 0.8
PAIRS, HELD_OUT_PAIRS, STEPS, DPO_RATE = 200, 120, 200, 5e-5
BATCH_ROWS, KEPT_ANSWERS, MAX_ANSWER_TOKENS = 8, 3, 96
_RESAMPLES = 2000
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where the data is and where files may be written; what is there already is used again."""

    data: Path
    work: Path
    steps: int = STEPS
    gpu: bool = False
    rate: float = DPO_RATE

    def table(self, name: str) -> dict[str, list[str]]:
        """References by input, in the order of the file."""
        found: dict[str, list[str]] = defaultdict(list)
        with (self.data / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found[row["mr"]].append(row["ref"])
        return dict(found)

    def child(self, request: dict[str, Any]) -> Any:
        """Asks the worker beside this file."""
        self.work.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [PYTHON, ROOT / "bench" / "workers" / "generate.py"],
            input=json.dumps(request),
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(done.stdout)

    def base(self) -> Path:
        """The foundation model's folder."""
        folder = self.work / "base"
        if not (folder / "model.gguf").exists():
            self.child({"do": "base", "out": str(folder)})
        return folder

    def answers(self, model: Path, adapter: Path | None, prompts: Sequence[str], temperature: float = 0.0) -> list[str]:
        """What a model says."""
        asked = {
            "model": str(model),
            "adapter": str(adapter or ""),
            "prompts": list(prompts),
            "seed": 0,
            "gpu": self.gpu,
        }
        return self.child({"do": "answer", **asked, "temperature": temperature})

    def bleu(self, model: Path, adapter: Path | None) -> float:
        """Multi-reference BLEU of what a model says to the held-out inputs."""
        table, said = self.table("eval"), (adapter or model) / "held-out.json"
        if not said.exists():
            said.write_text(json.dumps(self.answers(model, adapter, list(table))))
        return bleu(json.loads(said.read_text()), list(table.values())).score

    def tune(
        self,
        name: str,
        model: Path,
        recipe: TuningRecipe,
        rows: Sequence[Row],
        parent: Path | None = None,
        *,
        teacher: tuple[Path, Path] | None = None,
        max_validation_rows: int = 64,
    ) -> tuple[Path, dict[str, Any]]:
        """Tunes as the trainer does; the folder of what it made, and what it told at the end.

        Args:
            name: Of the folder.
            model: What is tuned.
            recipe: How.
            rows: All rows; some are kept for validation.
            parent: The adapter to begin with.
            teacher: Model and adapter to learn from.
            max_validation_rows: More are not looked at.
        """
        output = self.work / name
        if (output / "told.json").exists():
            return output, json.loads((output / "told.json").read_text())
        output.mkdir(parents=True, exist_ok=True)
        shards = {split: _shard(output, split, part) for split, part in _split(rows).items()}
        reading, writing = os.pipe()
        spec = {
            "schema": "mainspring.training_spec.v1",
            "run": f"projects/bench/trainingRuns/{name}",
            "base_model_version": recipe.base_model_version,
            "base_model": str(model / "hf"),
            **recipe.settings(),
            **shards,
            "helper": _helper(teacher) if teacher is not None else None,
            "parent": {"adapter": str(parent / "adapter"), "known": []} if parent is not None else None,
            "replay_ratio": 0.0,
            "max_validation_rows": max_validation_rows,
            "resume_from": None,
            "output": str(output),
            "threads": len(os.sched_getaffinity(0)),
            "precision": "auto",
            "device": "cuda" if self.gpu else "cpu",
            "micro_batch_tokens": 0,
            "progress_fd": writing,
            "parent_pid": os.getpid(),
        }
        path = output / "spec.json"
        path.write_text(json.dumps(spec))
        began = time.monotonic()
        with (output / "log").open("wb") as log:
            process = subprocess.Popen(
                [PYTHON, "-m", "mainspring_training_worker", path],
                pass_fds=(writing,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(writing)
        with os.fdopen(reading) as lines:
            told = [json.loads(line) for line in lines]
        if process.wait() or told[-1]["type"] != "result":
            raise RuntimeError(f"{name}: {told[-1:]}, {(output / 'log').read_text()[-2000:]}")
        result = {**told[-1], "seconds": time.monotonic() - began}
        (output / "told.json").write_text(json.dumps(result))
        return output, result


def e2e(bench: Bench) -> list[Figure]:
    """LoRA on the training inputs; multi-reference BLEU on the held-out ones."""
    base = bench.base()
    inputs, (adapter, told) = len(bench.table("eval")), _teacher(bench)
    report = json.loads((adapter / "training_report.json").read_text())
    gpu = report["peak_gpu_memory_bytes"]
    on = f" on {report['device']}, {gpu / (1 << 30):.2f} GiB" if gpu else ""
    return [
        Figure(
            "E2E, LoRA: BLEU of the tuned model",
            "BLEU",
            bench.bleu(base, adapter),
            bar=Bar(BLEU_BAR, at_least=True),
            note=f"{inputs} inputs, {told['steps']} steps of {BATCH_ROWS} rows, {told['tokens']} tokens",
        ),
        Figure("E2E, LoRA: BLEU of the base", "BLEU", bench.bleu(base, None)),
        Figure(
            "E2E, LoRA: time of the run",
            "s",
            told["seconds"],
            bar=Bar(TUNING_BAR_S),
            note=f"{told['tokens'] / report['seconds']['steps']:.0f} tokens/s in its steps, {report['precision']}{on}",
        ),
    ]


def dpo(bench: Bench) -> list[Figure]:
    """DPO from people's sentences preferred over the tuned model's own sampled ones; judged on inputs held out."""
    base, (tuned, _) = bench.base(), _teacher(bench)
    learned = _pairs(bench, base, tuned, "train", PAIRS)
    held_out = _pairs(bench, base, tuned, "eval", HELD_OUT_PAIRS)
    optimization = Optimization(learning_rate=bench.rate, epochs=2, batch_rows=8, validate_every_steps=10)
    settings = replace(recipe(), method=Method.DPO, optimization=optimization)
    rows = [row(prompt, better, rejected=worse) for prompt, better, worse in learned]
    adapter, told = bench.tune("dpo", base, settings, rows, parent=tuned)
    asked = {"do": "score", "model": str(base), "pairs": held_out, "gpu": bench.gpu}
    before = bench.child({**asked, "adapter": str(tuned)})
    after = bench.child({**asked, "adapter": str(adapter)})
    wins = [1.0 if new > old else 0.5 if new == old else 0.0 for old, new in zip(before, after, strict=True)]
    low, high = interval(wins)
    figures = [
        Figure(
            "DPO: win rate on held-out pairs",
            "share",
            sum(wins) / len(wins),
            bar=Bar(0.5, at_least=True),
            note=f"pairs whose human sentence gained over the sampled one; {len(wins)} pairs, {told['rows_learned']}"
            f" learned, 95 % interval {low:.3f} to {high:.3f}",
        ),
        Figure("DPO: lower end of the win rate's interval", "share", low, bar=Bar(0.5, at_least=True)),
    ]
    for name, margins in (("before", before), ("after", after)):
        share = sum(margin > 0 for margin in margins) / len(margins)
        figures.append(Figure(f"DPO: human sentence more probable, {name}", "share", share))
    for name, model in (("before", tuned), ("after", adapter)):
        figures.append(Figure(f"DPO: BLEU on the held-out inputs, {name}", "BLEU", bench.bleu(base, model)))
    return figures


def distill(bench: Bench, source: TeacherSource = TeacherSource.ANSWERS) -> list[Figure]:
    """A student of two thirds of the layers learns from the tuned teacher by METHOD_DISTILLATION: from its answers to
    the training inputs, or from its distributions at what people answered, of which there are several to an input.
    """
    base, (teacher, _) = bench.base(), _teacher(bench)
    layers = json.loads((base / "hf" / "config.json").read_bytes())["num_hidden_layers"]
    kept = [layer for layer in range(layers) if layer % 3 != 1 or layer in (0, layers - 1)]
    student = bench.work / "student"
    if not (student / "model.gguf").exists():
        bench.child({"do": "shorten", "model": str(base), "out": str(student), "layers": kept})
    kept_answers, passes = (1, 4.0) if source is TeacherSource.ANSWERS else (KEPT_ANSWERS, 3.0)
    table = bench.table("train")
    rows = [row(prompt, answer) for prompt, said in table.items() for answer in agreed(said, kept_answers)]
    wanted = replace(
        recipe(),
        method=Method.DISTILLATION,
        # A student that gives a word next to no chance learns next to nothing of it at a divergence between the two.
        distillation=DistillationConfig(source=source, divergence=0.0, max_answer_tokens=MAX_ANSWER_TOKENS),
        lora=LoraConfig(rank=64),
        optimization=Optimization(learning_rate=1e-3, epochs=passes, batch_rows=16),
    )
    adapter, told = bench.tune(f"distilled-{source.lower()}", student, wanted, rows, teacher=(base, teacher))
    untuned, best = bench.bleu(base, None), bench.bleu(base, teacher)
    bare, learned = bench.bleu(student, None), bench.bleu(student, adapter)
    return [
        Figure(
            f"distillation, {source.lower()}: share of the teacher's gain",
            "share",
            (learned - untuned) / (best - untuned),
            bar=Bar(RECOVERED_BAR, at_least=True),
            note=f"{len(kept)} of {layers} layers; base {untuned:.1f}, teacher {best:.1f}, student {bare:.1f} before"
            f" and {learned:.1f} after {told['steps']} steps, {told['seconds']:.0f} s; gain over the whole base",
        )
    ]


def online(bench: Bench) -> list[Figure]:
    """GRPO from the base by the words that an answer shares with a person's."""
    base, table = bench.base(), bench.table("train")
    wanted = replace(
        recipe(),
        method=Method.GRPO,
        online=OnlineConfig(rule=Rule.WORD_OVERLAP, max_answer_tokens=48),
        optimization=Optimization(learning_rate=1e-4, batch_rows=4, max_steps=30, validate_every_steps=15),
    )
    rows = [row(prompt, *agreed(said, 1)) for prompt, said in table.items()]
    adapter, told = bench.tune("online", base, wanted, rows, max_validation_rows=16)
    return [
        Figure("GRPO: mean reward on held-out rows, before", "share", -told["initial_validation_loss"]),
        Figure(
            "GRPO: mean reward on held-out rows, after",
            "share",
            -told["best_validation_loss"],
            note=f"{told['steps']} steps of 4 rows with 8 answers each, {told['seconds']:.0f} s",
        ),
        Figure("GRPO: BLEU on the held-out inputs, after", "BLEU", bench.bleu(base, adapter)),
    ]


MEASURED = {"e2e": e2e, "dpo": dpo, "distill": distill}
PARTS = {**MEASURED, "distill-logits": partial(distill, source=TeacherSource.LOGITS), "online": online}


async def measure(folder: Path, data: Path | None) -> Result:
    """Three parts, one after the other.

    Raises:
        FileNotFoundError: No folder with `train.csv` and `eval.csv` is named.
    """
    named = data or Path(os.environ.get("MAINSPRING_E2E", "")).parent
    if not all((named / table).is_file() for table in ("train.csv", "eval.csv")):
        raise FileNotFoundError("name the folder with E2E's train.csv and eval.csv by --data, or MAINSPRING_E2E in it")
    bench = Bench(named, folder)
    return Result("train-quality", [figure for part in MEASURED.values() for figure in part(bench)], {})


def bleu(said: Sequence[str], references: Sequence[Sequence[str]]) -> Any:
    """Corpus BLEU with every reference; shorter lists are filled with nothing, which sacrebleu passes over."""
    most = max(map(len, references))
    columns: Any = [[refs[place] if place < len(refs) else None for refs in references] for place in range(most)]
    return BLEU().corpus_score(list(said), columns)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean (seed 0)."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(_RESAMPLES))
    return means[round(0.025 * _RESAMPLES)], means[round(0.975 * _RESAMPLES) - 1]


def row(prompt: str, answer: str, rejected: str | None = None) -> Row:
    """A row as data-ingest writes it."""
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    made: Row = {"row_id": hashlib.sha256(json.dumps([turns, rejected]).encode()).hexdigest(), "messages": turns}
    return made if rejected is None else {**made, "rejected": rejected}


def _teacher(bench: Bench) -> tuple[Path, dict[str, Any]]:
    table = bench.table("train")
    rows = [row(prompt, answer) for prompt, answers in table.items() for answer in agreed(answers)]
    wanted = Optimization(epochs=2, batch_rows=BATCH_ROWS, max_steps=bench.steps, validate_every_steps=bench.steps // 4)
    return bench.tune("e2e", bench.base(), replace(recipe(), optimization=wanted), rows)


def agreed(answers: Sequence[str], keep: int = KEPT_ANSWERS) -> list[str]:
    """Of people's answers to one input those that the others agree with most, by BLEU, at most `keep`.

    Who writes carelessly leaves out what he was asked to say, and a model that learns from all learns to leave it out.
    """
    scorer = BLEU(effective_order=True)

    def agreement(place: int) -> float:
        others = [*answers[:place], *answers[place + 1 :]]
        return scorer.sentence_score(answers[place], others).score if others else 0.0

    best = sorted(range(len(answers)), key=agreement, reverse=True)[:keep]
    return [answers[place] for place in sorted(best)]


def _helper(model: tuple[Path, Path]) -> dict[str, str]:
    base, adapter = model
    return {"base_model": str(base / "hf"), "adapter": str(adapter / "adapter")}


def recipe() -> TuningRecipe:
    """The settings that users get."""
    place = "projects/bench"
    base = f"{place}/models/base/versions/1"
    return TuningRecipe(f"{place}/tuningRecipes/r", f"{place}/datasets/d", base, f"{place}/models/m")


def _pairs(bench: Bench, base: Path, tuned: Path, name: str, count: int) -> list[list[str]]:
    """Prompts with a person's sentence and a sampled one of the tuned model."""
    path = bench.work / f"pairs-{name}.json"
    if not path.exists():
        flat = [(prompt, answer) for prompt, answers in bench.table(name).items() for answer in answers]
        chosen = random.Random(0).sample(flat, min(count, len(flat)))
        sampled = bench.answers(base, tuned, [prompt for prompt, _ in chosen], temperature=1.0)
        pairs = [[p, a, s] for (p, a), s in zip(chosen, sampled, strict=True) if s and s != a]
        path.write_text(json.dumps(pairs))
    return json.loads(path.read_text())


def _split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Train and validation by a hash of the prompt, so that no input is in both."""
    made: dict[str, list[Row]] = {"train": [], "validation": []}
    for one in rows:
        digest = hashlib.sha256(one["messages"][0]["content"].encode()).digest()
        made["validation" if digest[0] < 13 else "train"].append(one)
    return made


def _shard(folder: Path, split: str, rows: list[Row]) -> list[dict[str, Any]]:
    path = folder / f"{split}.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return [{"path": str(path), "rows": len(rows)}]


def main() -> int:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.train_quality")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / ".build" / "train-quality")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--gpu", action="store_true", help="tune and answer on a CUDA GPU")
    parser.add_argument("--rate", type=float, default=DPO_RATE, help="learning rate of DPO")
    given = parser.parse_args()
    for figure in PARTS[given.part](Bench(given.data, given.work, given.steps, given.gpu, given.rate)):
        bar = f" (bar {figure.bar}: {'met' if figure.met else 'MISSED'})" if figure.bar is not None else ""
        print(f"{figure.name}: {figure.value:.4g} {figure.unit}{bar}  {figure.note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
