"""One run from specification to result."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from mainspring_training_worker import methods, outputs
from mainspring_training_worker.batches import Plan
from mainspring_training_worker.checkpoint import Checkpoint
from mainspring_training_worker.encoding import encode_all
from mainspring_training_worker.fitting import Rows
from mainspring_training_worker.layers import PLAIN_ATTENTION
from mainspring_training_worker.model import (
    Tunable,
    choose_precision,
    load_base,
    load_tokenizer,
    read_adapted,
    write_adapter,
)
from mainspring_training_worker.progress import Progress
from mainspring_training_worker.spec import Refused, Spec
from mainspring_training_worker.training import Training


def train(spec: Spec, rows: Rows, progress: Progress, stopping: Callable[[], bool]) -> None:
    """Does the run and tells the result.

    Raises:
        Refused: It cannot end.
        Stopped: The parent asked to stop; a checkpoint is written.
    """
    began = time.monotonic()
    settings = spec.optimization
    torch.set_num_threads(spec.threads)
    torch.use_deterministic_algorithms(True)
    # It would also fill all memory before use, which only hides errors of a kind that the tests on equal digests find.
    deterministic: Any = torch.utils.deterministic  # Its settings are unknown to type checkers.
    deterministic.fill_uninitialized_memory = False
    progress.tell("phase", phase="encoding rows")
    tokenizer = load_tokenizer(spec.base_model)
    examples, too_long = encode_all(tokenizer, rows.train, settings.max_sequence_tokens)
    validation, _ = encode_all(tokenizer, rows.validation, settings.max_sequence_tokens)
    if not examples:
        message = f"none of {len(rows.train)} rows has at most {settings.max_sequence_tokens} tokens; raise the limit"
        raise Refused("NO_TRAINING_ROWS", message)
    plan = Plan.make(
        examples,
        epochs=settings.epochs,
        batch_rows=settings.batch_rows,
        max_steps=settings.max_steps,
        validate_every_steps=settings.validate_every_steps,
        seed=settings.seed,
    )
    progress.tell("phase", phase="loading the base model")
    checkpoint = Checkpoint.read(spec.resume_from) if spec.resume_from is not None else None
    precision = checkpoint.precision if checkpoint is not None else choose_precision(spec.precision)
    progress.tell("plan", steps=plan.steps, precision=precision)
    base = load_base(spec.base_model, precision, PLAIN_ATTENTION)
    model = Tunable(base, spec.lora, spec.parent.adapter if spec.parent is not None else None, settings.seed)
    training = Training(
        spec,
        model,
        plan,
        validation,
        objective=methods.objective(spec, model, tokenizer),
        precision=precision,
        progress=progress,
        stopping=stopping,
    )
    resumed_from = checkpoint.state.step if checkpoint is not None and training.resume(checkpoint) else None
    progress.tell("phase", phase="training")
    training.run()
    progress.tell("phase", phase="writing the adapter")
    config, weights = model.module.peft_config["default"], training.best()
    del model, base
    files = _write_files(spec, tokenizer, config, weights, progress)
    state = training.state
    counts = {
        "rows_learned": len(examples),
        "rows_replayed": sum(row.row_id in rows.known for row in rows.train),
        "rows_too_long": too_long,
        "rows_unfit": rows.unfit,
        "rows_validation": len(validation),
        "tokens": state.tokens,
        "steps": state.step,
        "best_step": state.best_step,
        "best_validation_loss": state.best_validation_loss,
        "initial_validation_loss": state.initial_validation_loss,
        "stopped_early": training.stopped_early,
    }
    files["training_report.json"] = outputs.write_report(
        spec.output,
        files,
        run=spec.run,
        method=spec.method,
        base_model_version=spec.base_model_version,
        counts=counts,
        curve=state.curve,
        plan_sha256=training.plan_sha256,
        precision=precision,
        threads=spec.threads,
        resumed_from_step=resumed_from,
        wall_s=round(time.monotonic() - began, 1),
    )
    progress.tell("result", files={role: str(path.relative_to(spec.output)) for role, path in files.items()}, **counts)


def _write_files(
    spec: Spec, tokenizer: Any, config: LoraConfig, weights: dict[str, torch.Tensor], progress: Progress
) -> dict[str, Path]:
    folder = spec.output / "adapter"
    write_adapter(folder, weights, config, spec.base_model_version)
    files = {
        "adapter/adapter_model.safetensors": folder / "adapter_model.safetensors",
        "adapter/adapter_config.json": folder / "adapter_config.json",
        "adapter.gguf": outputs.write_gguf(spec.output, folder, spec.base_model),
    }
    progress.tell("phase", phase="measuring reference distributions")
    gc.collect()
    reference = read_adapted(load_base(spec.base_model, "fp32"), folder)
    files["fidelity_probe.json"] = outputs.write_probe(spec.output, reference, tokenizer)
    return files
