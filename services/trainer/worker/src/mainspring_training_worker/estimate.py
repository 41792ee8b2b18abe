"""Whether a run fits into the memory that there is; told before anything is loaded. Pure but for reading sizes."""

from __future__ import annotations

import json
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mainspring_training_worker.fitting import MAKES_WHOLE, ONLINE, draws_answers
from mainspring_training_worker.spec import Refused, Spec

_LIBRARIES = 700 << 20
"""torch, transformers and what they bring, measured."""
_ACTIVATIONS = 34
"""Numbers kept of each token, layer and unit of width for the way back (Korthikanti et al. 2022, arXiv:2205.05198)."""
_OF_PEAK = 0.4
"""Of a plain matrix product's speed, what training reaches (docs/benchmarks.md)."""
_COMPARED = 64
"""Bytes of a word and position where two models' distributions are compared, measured: some 16 numbers in fp32."""
_LAYER_S = 0.008
"""On a GPU, what a layer of a step takes at least, measured: its kernels are started one by one, however small."""
_PROCESSOR_TOKENS = 256
"""Through the model at once without a GPU: more is hardly faster, and takes memory (docs/benchmarks.md)."""
_GPU_TOKENS = tuple(1 << bits for bits in range(16, 9, -1))
_PACKED_TOKENS = 4096
"""Packed on a GPU at once, at most: who may see whom among them is a table of their square."""
_OF_GPU = 0.5
"""Of a GPU's memory, what a micro-batch is chosen for; the rest is for what an estimate does not know."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Shape:
    """What of a model decides how much memory it takes."""

    parameters: int
    layers: int
    width: int
    vocabulary: int


def shape_of(folder: Path) -> Shape:
    """The shape of the model in a Hugging Face folder, from its configuration and the headers of its weights.

    Raises:
        Refused: BASE_MODEL_UNUSABLE, they cannot be read.
    """
    try:
        return _read_shape(folder)
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise Refused("BASE_MODEL_UNUSABLE", f"the base model cannot be read: {err}; import it again"[:500]) from err


def _read_shape(folder: Path) -> Shape:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    parameters = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            size = 1
            for extent in tensor["shape"] if name != "__metadata__" else [0]:
                size *= extent
            parameters += size
    layers, width = int(config.get("num_hidden_layers", 0)), int(config.get("hidden_size", 0))
    return Shape(parameters, layers, width, int(config.get("vocab_size", 0)))


def helper_bytes(spec: Spec) -> int:
    """Weights of the model that teaches or judges, which is loaded in fp32 whatever the run's own is in.

    Raises:
        Refused: BASE_MODEL_UNUSABLE, they cannot be read.
    """
    return 4 * shape_of(spec.helper.base_model).parameters if spec.helper is not None else 0


def needed_bytes(shape: Shape, spec: Spec, adaptation: str, precision: str, helper: int = 0) -> int:
    """About the most that a run takes.

    A learned number is kept in fp32 with its gradient, two moments and its best value. A micro-batch keeps activations,
    and the words' scores of the positions to learn, of which at most all count. Of a method that draws answers, all of
    one prompt are in one micro-batch; an answer that a student gives by itself may be longer than the row's. A teacher
    that only answers is gone before the model is loaded; every other helper is there beside it.
    """
    learning = _LIBRARIES + _learning_bytes(shape, spec, adaptation, precision)
    if answers_first(spec):
        return int(max(_LIBRARIES + helper, learning))
    return int(learning + helper)


def answers_first(spec: Spec) -> bool:
    """Whether a teacher answers all rows before the model learns."""
    return spec.method == "DISTILLATION" and spec.distillation.source == "ANSWERS"


def _learning_bytes(shape: Shape, spec: Spec, adaptation: str, precision: str) -> float:
    held = {"FULL": 4.0, "QLORA": 0.6}.get(adaptation, 4.0 if precision == "fp32" else 2.0)
    per_layer = (
        7 * 2 * shape.width * spec.lora.rank * 2
    )  # Two matrices at each of seven places, the wider of them twice.
    learned = shape.parameters if adaptation == "FULL" else shape.layers * per_layer
    computed = 4 if precision == "fp32" else 2
    longest = spec.optimization.max_sequence_tokens
    tokens = max(min(spec.micro_batch_tokens, _step_tokens(spec)), longest)
    scored = max(spec.micro_batch_tokens, longest)
    if spec.method in ONLINE:
        answers, most = spec.online.generations, spec.online.max_answer_tokens
        tokens, scored = max(tokens, answers * (longest + most)), max(scored, answers * most)
    elif draws_answers(spec):
        most = longest + spec.distillation.max_answer_tokens
        tokens, scored = max(tokens, most), max(scored, most)
    activations = tokens * shape.layers * shape.width * _ACTIVATIONS * computed // 2
    # A validation has as many rows as there are; on a GPU no more tokens are chosen than a step's.
    compared = spec.method == "DISTILLATION" and not answers_first(spec)
    scores = scored * shape.vocabulary * (_COMPARED if compared else computed + 4 + 4)
    return held * shape.parameters + learned * 16 + activations + scores


def drawn_tokens(spec: Spec, rows: int) -> int:
    """Tokens of the answers that the model gives by itself while it learns from so many rows, at most."""
    if spec.method in ONLINE:
        return rows * spec.online.generations * spec.online.max_answer_tokens
    distillation = spec.distillation
    return round(rows * distillation.on_policy_share * distillation.max_answer_tokens) if draws_answers(spec) else 0


def _step_tokens(spec: Spec) -> int:
    """The most that a step has: each row may be two sequences, or as many as answers are drawn."""
    longest = spec.optimization.max_sequence_tokens
    drawn = spec.online.generations * (longest + spec.online.max_answer_tokens)
    return spec.optimization.batch_rows * (drawn if spec.method in ONLINE else 2 * longest)


def micro_batch_tokens(shape: Shape, spec: Spec, precision: str, gpu_bytes: int | None, helper: int = 0) -> int:
    """Tokens that go through the model at once: what the specification says, or what suits the device.

    On a GPU they are no more than a step has, since a validation, of any number of rows, goes by them too. They depend
    on the memory that a GPU has, not on what is free of it, so that a resumed run adds up the same sums.

    Args:
        shape: The model.
        spec: What is asked for.
        precision: Of the base.
        gpu_bytes: Memory of the GPU; None for processors.
        helper: Bytes of the model that teaches or judges.
    """
    if spec.micro_batch_tokens:
        return spec.micro_batch_tokens
    if gpu_bytes is None:
        return _PROCESSOR_TOKENS
    longest = spec.optimization.max_sequence_tokens
    of_step = _step_tokens(spec)

    def bounded(tokens: int) -> int:
        most = min(of_step, _PACKED_TOKENS) if spec.optimization.packing else of_step
        return max(min(tokens, most), longest)

    def fits(tokens: int) -> bool:
        needed = needed_bytes(shape, replace(spec, micro_batch_tokens=tokens), spec.adaptation, precision, helper)
        return needed <= _OF_GPU * gpu_bytes

    choices = [bounded(tokens) for tokens in _GPU_TOKENS]
    return next(filter(fits, choices), choices[-1])


def available_bytes() -> int:
    """Memory that this process may take: of the machine, its control group and its own limit the least."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    known = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    if _CGROUP.exists() and (limit := _CGROUP.read_text().strip()).isdigit():
        known.append(int(limit))
    own, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return min([*known, *([own] if own != resource.RLIM_INFINITY else [])])


def check_result_fits(shape: Shape, available: int) -> None:
    """Looks whether the machine's own memory holds what a run on a GPU leaves: it is written from there, in fp32.

    Raises:
        Refused: OUT_OF_MEMORY, with what to do.
    """
    if (needed := 4 * shape.parameters) > available:
        message = (
            f"the result is written from the machine's memory, which takes {_gb(needed)}, and {_gb(available)} are"
        )
        raise Refused("OUT_OF_MEMORY", f"{message} available; free some, or choose a smaller base")


def check_fits(shape: Shape, spec: Spec, precision: str, available: int, *, helper: int = 0, gpu: bool = False) -> int:
    """What the run is expected to take, in bytes.

    Args:
        shape: The model.
        spec: What is asked for.
        precision: Of the base.
        available: Bytes that there are.
        helper: Bytes of the model that teaches or judges.
        gpu: Whether they are a GPU's.

    Raises:
        Refused: OUT_OF_MEMORY, with what would fit.
    """
    needed = needed_bytes(shape, spec, spec.adaptation, precision, helper)
    if needed <= available:
        return needed
    allowed = () if spec.method in MAKES_WHOLE else ("LORA", "QLORA")
    others = {n: needed_bytes(shape, spec, n, precision, helper) for n in allowed if n != spec.adaptation}
    fit = [f"ADAPTATION_{name} needs {_gb(size)}" for name, size in others.items() if size <= available]
    advice = "; ".join(fit) or _less(spec)
    there = f"{_gb(available)} of the GPU's are free" if gpu else f"{_gb(available)} are available"
    message = f"the run needs about {_gb(needed)} of memory and {there}; {advice}"
    raise Refused("OUT_OF_MEMORY", message)


def _less(spec: Spec) -> str:
    """What to make smaller where no adaptation fits."""
    base = "lower pretraining.parameters" if spec.method == "PRETRAINING" else "choose a smaller base"
    helper = " or a smaller model to teach or judge" if spec.helper is not None else ""
    online = "online.generations, online.max_answer_tokens or " if spec.method in ONLINE else ""
    return f"{base}{helper}, or lower {online}max_sequence_tokens"


def expected_s(
    shape: Shape,
    adaptation: str,
    tokens: int,
    validated: int,
    multiplied_per_s: float,
    *,
    drawn: int = 0,
    gpu_steps: int = 0,
) -> float:
    """About how long a run computes.

    A token costs two operations a weight on the way there, two more on the way back, and two for the gradient of a
    weight that is learned (Kaplan et al. 2020, arXiv:2001.08361). One that the model draws by itself costs two more.

    Args:
        shape: The model.
        adaptation: What is learned.
        tokens: To learn from.
        validated: To look at in validations.
        multiplied_per_s: Operations a second of a plain matrix product here.
        drawn: To learn from as well, of answers that the model gives by itself.
        gpu_steps: Steps, when they are made on a GPU.
    """
    learned = 6 if adaptation == "FULL" else 4
    operations = shape.parameters * (learned * (tokens + drawn) + 2 * (validated + drawn))
    return max(operations / (multiplied_per_s * _OF_PEAK), gpu_steps * shape.layers * _LAYER_S)


def said(needed: int, seconds: float) -> str:
    """An estimate for a person."""
    long = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, round(seconds))} s"
    return f"about {long} and {_gb(needed)} of memory expected"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
