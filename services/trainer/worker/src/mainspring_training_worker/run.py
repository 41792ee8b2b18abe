"""One run from specification to result."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from mainspring_training_worker import checks, embedding, estimate, methods, outputs
from mainspring_training_worker.batches import Example, Plan
from mainspring_training_worker.checkpoint import Checkpoint
from mainspring_training_worker.crash import crash_point
from mainspring_training_worker.device import all_bytes, choose_device, described, free_bytes, on_gpu, peak_bytes
from mainspring_training_worker.encoding import encode_all
from mainspring_training_worker.fitting import CORPUS, ONLINE, Rows
from mainspring_training_worker.layers import PLAIN_ATTENTION
from mainspring_training_worker.model import Tunable, choose_precision, load_base, load_tokenizer, operations_per_s
from mainspring_training_worker.progress import Progress
from mainspring_training_worker.rows import Row
from mainspring_training_worker.spec import Refused, Spec
from mainspring_training_worker.team import Team, team_of
from mainspring_training_worker.training import Training
from mainspring_training_worker.watching import Watch


@dataclass(frozen=True)
class _Prepared:
    """What a run learns, as tokens.

    Attributes:
        base: Hugging Face folder of the model that it begins with.
        tokenizer: That model's.
        examples: What is learned.
        validation: What steers.
        too_long: Rows left out.
        signals: What is odd about the rows.
    """

    base: Path
    tokenizer: Any
    examples: list[Example]
    validation: list[Example]
    too_long: int
    signals: list[tuple[str, str]]


def train(spec: Spec, rows: Rows, progress: Progress, stopping: Callable[[], bool]) -> None:
    """Does the run and tells the result.

    Raises:
        Refused: It cannot end.
        Stopped: The parent asked to stop; a checkpoint is written.
    """
    began = time.monotonic()
    _make_reproducible(spec.threads)
    team = team_of(spec.team)
    device = choose_device(spec.device, alone=spec.team is None or spec.team.size == 1)
    precision = _precision(spec, team, device)
    prepared = _prepare(spec, rows, progress, precision, device)
    progress.tell("phase", phase="loading the base model")
    checkpoint = Checkpoint.read(spec.resume_from) if spec.resume_from is not None else None
    precision = checkpoint.precision if checkpoint is not None else precision
    plan = _plan(spec, prepared.examples)
    progress.tell("plan", steps=plan.steps, precision=precision, **described(device))
    tokens, needed = _checked(_as_drawn(spec, prepared), prepared.base, precision, device)
    spec = replace(spec, micro_batch_tokens=tokens)
    crash_point("training-worker:estimated")
    training, config = _training(spec, prepared, plan, precision, device, team, progress, stopping)
    crash_point("training-worker:loaded")
    resumed_from = checkpoint.state.step if checkpoint is not None and training.resume(checkpoint) else None
    for signal in prepared.signals:
        training.signal(*signal)
    expected_s = _expected_s(spec, prepared, plan, precision, device)
    progress.tell("phase", phase=f"training: {estimate.said(needed, expected_s)}")
    measured = training.run()
    team.part()
    if not team.leads:
        return
    best = {name: tensor.cpu() for name, tensor in training.best().items()}
    made = outputs.Made(spec, prepared.base, prepared.tokenizer, config, best)
    training.release()
    gc.collect()
    progress.tell("phase", phase="writing the result")
    files = outputs.write(made, lambda phase: progress.tell("phase", phase=phase))
    counts = _counts(prepared, rows, training)
    facts = {
        "measured": measured,
        "expected_bytes": needed,
        "expected_s": round(expected_s, 1),
        "resumed_from_step": resumed_from,
        "wall_s": round(time.monotonic() - began, 1),
        "peak_gpu_memory_bytes": peak_bytes(device),
        "micro_batch_tokens": spec.micro_batch_tokens,
        **described(device),
    }
    files["training_report.json"] = _report(spec, training, files, precision, counts=counts, **facts)
    crash_point("training-worker:before-result")
    progress.tell("result", files={role: str(path.relative_to(spec.output)) for role, path in files.items()}, **counts)
    crash_point("training-worker:after-result")


def _make_reproducible(threads: int) -> None:
    torch.set_num_threads(threads)
    # A GPU's matrix products are the same each time only with a workspace of their own for each stream.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    # It would also fill all memory before use, which only hides errors of a kind that the tests on equal digests find.
    deterministic: Any = torch.utils.deterministic  # Its settings are unknown to type checkers.
    deterministic.fill_uninitialized_memory = False


def _precision(spec: Spec, team: Team, device: torch.device) -> str:
    """What the base is computed in; one for the whole team, although machines differ."""
    return "bf16" if team.as_leader(choose_precision(spec.precision, device) == "bf16") else "fp32"


def _checked(spec: Spec, base: Path, precision: str, device: torch.device) -> tuple[int, int]:
    """Tokens that go through the model at once, and about how many bytes the run takes.

    Raises:
        Refused: OUT_OF_MEMORY, it does not fit; BASE_MODEL_UNUSABLE.
    """
    shape, helper = estimate.shape_of(base), estimate.helper_bytes(spec)
    tokens = estimate.micro_batch_tokens(shape, spec, precision, all_bytes(device), helper)
    sized = replace(spec, micro_batch_tokens=tokens)
    needed = estimate.check_fits(shape, sized, precision, free_bytes(device), helper=helper, gpu=on_gpu(device))
    if on_gpu(device):
        estimate.check_result_fits(shape, estimate.available_bytes())
    return tokens, needed


def _as_drawn(spec: Spec, prepared: _Prepared) -> Spec:
    """For a method that draws answers, the longest prompt that there is instead of the longest that there may be."""
    if spec.method not in ONLINE:
        return spec
    longest = max(len(example.prompt) for example in (*prepared.examples, *prepared.validation))
    return replace(spec, optimization=replace(spec.optimization, max_sequence_tokens=longest))


def _plan(spec: Spec, examples: list[Example]) -> Plan:
    settings = spec.optimization
    return Plan.make(
        examples,
        epochs=settings.epochs,
        batch_rows=settings.batch_rows,
        max_steps=settings.max_steps,
        validate_every_steps=settings.validate_every_steps,
        seed=settings.seed,
    )


def _expected_s(spec: Spec, prepared: _Prepared, plan: Plan, precision: str, device: torch.device) -> float:
    """About how long the steps and validations of the plan take here; of a team each does its share."""
    rows = plan.order[: plan.steps * plan.batch_rows]
    validations = 1 + plan.steps // plan.validate_every_steps
    return estimate.expected_s(
        estimate.shape_of(prepared.base),
        spec.adaptation,
        tokens=sum(example.size for example in rows),
        validated=validations * sum(example.size for example in prepared.validation),
        multiplied_per_s=operations_per_s(precision, device) * (spec.team.size if spec.team is not None else 1),
        drawn=estimate.drawn_tokens(spec, len(rows)),
        gpu_steps=plan.steps if on_gpu(device) else 0,
    )


def _training(
    spec: Spec,
    prepared: _Prepared,
    plan: Plan,
    precision: str,
    device: torch.device,
    team: Team,
    progress: Progress,
    stopping: Callable[[], bool],
) -> tuple[Training, LoraConfig | None]:
    """The loop with its model in memory, and the adapter's configuration."""
    model = _model(spec, prepared.base, precision, device)
    training = Training(
        spec,
        model,
        plan,
        prepared.validation,
        watch=Watch(spec, model, prepared.tokenizer, progress),
        objective=methods.objective(spec, model, prepared.tokenizer),
        team=team,
        precision=precision,
        progress=progress,
        stopping=stopping,
    )
    return training, model.adapter_config


def _counts(prepared: _Prepared, rows: Rows, training: Training) -> dict[str, Any]:
    state = training.state
    return {
        "rows_learned": len(prepared.examples),
        "rows_replayed": sum(row.row_id in rows.known for row in rows.train),
        "rows_too_long": prepared.too_long,
        "rows_unfit": rows.unfit,
        "rows_validation": len(prepared.validation),
        "tokens": state.tokens,
        "steps": state.step,
        "best_step": state.best_step,
        "best_validation_loss": state.best_validation_loss,
        "initial_validation_loss": state.initial_validation_loss,
        "stopped_early": training.stopped_early,
    }


def _report(spec: Spec, training: Training, files: dict[str, Path], precision: str, **facts: Any) -> Path:
    state = training.state
    return outputs.write_report(
        spec.output,
        files,
        run=spec.run,
        method=spec.method,
        adaptation=spec.adaptation,
        base_model_version=spec.base_model_version,
        curve=state.curve,
        signals=state.signals,
        rollbacks=state.rollbacks,
        seconds=training.seconds,
        plan_sha256=training.plan_sha256,
        precision=precision,
        threads=spec.threads,
        workers=spec.team.size if spec.team is not None else 1,
        **facts,
    )


def _prepare(spec: Spec, rows: Rows, progress: Progress, precision: str, device: torch.device) -> _Prepared:
    settings = spec.optimization
    if spec.method == embedding.METHOD:
        return _prepare_pairs(spec, rows, progress)
    base, tokenizer = spec.base_model, load_tokenizer(spec.base_model)
    train, held_out = rows.train, rows.validation
    if spec.method == "PRETRAINING":
        from mainspring_training_worker.scratch import make_base

        progress.tell("phase", phase="learning a vocabulary")
        folder = spec.output / "scratch"
        base = make_base(folder, spec.base_model, tokenizer, rows.train, spec.pretraining, settings.seed)
        tokenizer = load_tokenizer(base)
    if estimate.answers_first(spec):
        _checked(spec, base, precision, device)  # Before the teacher is loaded, and before what it takes to answer.
        # What steers is the teacher's, too: people's answers would stop a student that has become like its teacher.
        answered, known = _answered(spec, [*train, *held_out], progress, device), {row.row_id for row in held_out}
        train = [row for row in answered if row.row_id not in known]
        held_out = [row for row in answered if row.row_id in known]
    progress.tell("phase", phase="encoding rows")
    corpus = spec.method in CORPUS
    examples, too_long = encode_all(tokenizer, train, settings.max_sequence_tokens, corpus=corpus)
    validation, _ = encode_all(tokenizer, held_out, settings.max_sequence_tokens, corpus=corpus)
    if not examples:
        message = f"none of {len(train)} rows has at most {settings.max_sequence_tokens} tokens; raise the limit"
        raise Refused("NO_TRAINING_ROWS", message)
    odd = [checks.template_signal(tokenizer, train)]
    odd += [] if corpus else [checks.rows_signal(too_long, examples, settings.max_sequence_tokens)]
    signals = [signal for signal in odd if signal is not None]
    return _Prepared(base, tokenizer, examples, validation, too_long, signals)


def _prepare_pairs(spec: Spec, rows: Rows, progress: Progress) -> _Prepared:
    tokenizer = embedding.load_tokenizer(spec.base_model)
    progress.tell("phase", phase="encoding rows")
    limit = min(spec.optimization.max_sequence_tokens, int(tokenizer.model_max_length))
    examples, cut = embedding.encode_pairs(tokenizer, rows.train, limit)
    if len(examples) < 2:
        raise Refused(
            "NO_TRAINING_ROWS", "questions are told apart from each other, and there is only one; import more"
        )
    validation, _ = embedding.encode_pairs(tokenizer, rows.validation, limit)
    odd = checks.cut_signal(cut, len(examples), limit)
    return _Prepared(spec.base_model, tokenizer, examples, validation, 0, [odd] if odd is not None else [])


def _answered(spec: Spec, rows: list[Row], progress: Progress, device: torch.device) -> list[Row]:
    from mainspring_training_worker.methods.helpers import with_answers_of

    assert spec.helper is not None
    progress.tell("phase", phase="asking the teacher")
    answered: list[Row] = []
    for some in with_answers_of(spec.helper, rows, "fp32", spec.distillation.max_answer_tokens, device):
        progress.tick()
        answered += [row for row in some if row.messages[-1]["content"].strip()]
    return answered


def _model(spec: Spec, base: Path, precision: str, device: torch.device) -> Tunable:
    packed = spec.optimization.packing
    attention = "sdpa" if on_gpu(device) else PLAIN_ATTENTION
    if spec.method == embedding.METHOD:
        return Tunable(embedding.load_model(base, device), half=precision == "bf16")
    if spec.adaptation == "FULL":
        whole = load_base(base, "fp32", attention, device=device)
        return Tunable(whole, packed=packed, half=precision == "bf16")
    scores, four_bits = spec.method == "REWARD_MODEL", spec.adaptation == "QLORA"
    torch.manual_seed(spec.optimization.seed)  # A head that gives scores begins with random numbers.
    loaded = load_base(base, precision, attention, four_bits=four_bits, scores=scores, device=device)
    return Tunable.adapted(
        loaded,
        spec.lora,
        spec.parent.adapter if spec.parent is not None else None,
        spec.optimization.seed,
        packed=packed,
        # PEFT's layers on 4 bits would compute an adapter in fp32, which a GPU does at a tenth of its speed.
        half=four_bits and on_gpu(device) and precision == "bf16",
        task="SEQ_CLS" if scores else "CAUSAL_LM",
        quick=not four_bits and not on_gpu(device),
    )
